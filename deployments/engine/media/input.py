"""Input files: their kinds, their readers, and opening them without trusting their contents.

The module imports neither torch nor FFmpeg until a file is read, because the tasks of the endpoints
name the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING, Any

from deployments.engine.media import isobmff
from serve_app.domain.errors import InvalidInput

if TYPE_CHECKING:
    from av.container import InputContainer


class InputKind(StrEnum):
    """Kind of an input file, which decides how it is decoded before the family prepares a call."""

    IMAGE = "image"  # ``PIL.Image``, RGB
    VIDEO = "video"  # ``video_reader.InputVideo``
    AUDIO = "audio"  # ``audio.InputAudio``


MIN_SIDE = 8
"""Minimum width and height in pixels: an autoencoder makes one value of as many."""


def read_input(kind: InputKind, body: bytes, field: str) -> Any:
    """Decode the file of an input field. Raises ``InvalidInput``, which names the field."""
    from deployments.engine.media.audio import read_audio  # noqa: PLC0415
    from deployments.engine.media.images import read_image  # noqa: PLC0415
    from deployments.engine.media.video_reader import read_video  # noqa: PLC0415

    match kind:
        case InputKind.IMAGE:
            return read_image(body, field, least_side=MIN_SIDE)
        case InputKind.VIDEO:
            return read_video(body, field)
        case InputKind.AUDIO:
            return read_audio(body, field)


MAX_FRAME_PIXELS = 4096 * 4096
"""Pixels of one frame of a video. FFmpeg decodes frames already to open a file."""

LIMITED = {
    "protocol_whitelist": "pipe",
    "enable_drefs": "0",
    "use_absolute_path": "0",
    "max_pixels": str(MAX_FRAME_PIXELS),
}
"""FFmpeg options that restrict reading to the bytes, whatever the file refers to, and that keep
decoders from allocating larger frames."""


@dataclass(frozen=True, slots=True)
class InputMedia:
    """Media file of an input field, with its expected kind. It is read only when opened."""

    body: bytes
    field: str
    what: str  # "video" or "audio"
    type: str  # fal's error type for a file of another kind
    formats: tuple[str, ...]  # formats that are read
    demuxer: Callable[[bytes], str | None]  # FFmpeg's, by the first bytes; None: unknown

    @contextmanager
    def opened(self) -> Generator[InputContainer]:
        """Open the file. Raises ``InvalidInput`` naming the field, also for read errors."""
        import av  # noqa: PLC0415

        # The demuxer is named so that a file cannot be taken for a list of other files to open.
        demuxer = self.demuxer(self.body)
        if demuxer is None:
            message = f"the file is not a supported {self.what} file ({', '.join(self.formats)})"
            known = {"supported_formats": list(self.formats)}
            raise InvalidInput.of_field(self.field, message, self.type, known)
        if demuxer == "mov" and (why := isobmff.refusal(self.body)) is not None:
            raise self.unread(why)
        try:
            with av.open(BytesIO(self.body), "r", format=demuxer, options=LIMITED) as container:
                yield container
        except (av.FFmpegError, ValueError) as error:
            raise self.unread(str(error)) from None

    def unread(self, why: str) -> InvalidInput:
        message = f"the {self.what} file cannot be read: {why}"
        return InvalidInput.of_field(self.field, message, self.type)


def is_isobmff(body: bytes) -> bool:
    """Return whether it is MP4, M4A or MOV (ISO/IEC 14496-12, 4.3)."""
    return body[4:8] == b"ftyp"


def is_matroska(body: bytes) -> bool:
    """Return whether it is Matroska or WebM, by the EBML header (RFC 8794, 11.2)."""
    return body.startswith(b"\x1a\x45\xdf\xa3")
