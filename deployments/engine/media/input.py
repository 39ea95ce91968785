"""Kinds of input files, and the reader of each.

The module imports neither torch nor FFmpeg until a file is read, because the tasks of the endpoints
name the kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from serve_app.domain.errors import InvalidInput


class InputKind(StrEnum):
    """Kind of an input file, which decides how it is decoded before the family prepares a call."""

    IMAGE = "image"  # ``PIL.Image``, RGB
    MASK = "mask"  # ``PIL.Image``, L; white is selected
    VIDEO = "video"  # ``video_reader.InputVideo``
    AUDIO = "audio"  # ``audio.InputAudio``


MIN_SIDE = 8
"""Minimum width and height in pixels: an autoencoder makes one value of as many."""

MAX_ASPECT = 200
"""Longer side of an image by its shorter one. Processors of models make sides of no pixels of a
longer one, and raise what names no field."""


def read_input(
    kind: InputKind, body: bytes, field: str, note: Callable[[str], None] | None = None
) -> Any:
    """Decode the file of an input field. Raises ``InvalidInput``, which names the field.

    ``note`` gets sentences for the request's log.
    """
    match kind:
        case InputKind.IMAGE:
            from serve_app.domain.media.images import read_image  # noqa: PLC0415

            image = read_image(body, field, least_side=MIN_SIDE)
            if max(image.size) > MAX_ASPECT * min(image.size):
                message = (
                    f"the image is {image.width}×{image.height} pixels; the longer side must have "
                    f"at most {MAX_ASPECT} times as many as the shorter"
                )
                raise InvalidInput.of_field(field, message)
            return image
        case InputKind.MASK:
            from serve_app.domain.media.images import read_mask  # noqa: PLC0415

            return read_mask(body, field, MIN_SIDE, note)
        case InputKind.VIDEO:
            from deployments.engine.media.video_reader import read_video  # noqa: PLC0415

            return read_video(body, field)
        case InputKind.AUDIO:
            from deployments.engine.media.audio import read_audio  # noqa: PLC0415

            return read_audio(body, field)
