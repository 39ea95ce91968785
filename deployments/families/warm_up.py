"""What the first generation of loaded weights is asked for, which is nobody's: one step, beginning
with plain files where the task begins with any. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from deployments.picture_size import Size
from deployments.task import GivenKind, begins_with
from serve_app.domain.endpoint import Endpoint

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

ONE_STEP = {"prompt": "a lighthouse", "num_inference_steps": 1}

GREY = (128, 128, 128)
SIDES = Size(832, 480)  # of what is given


def first_input(endpoint: Endpoint, **usual: Any) -> Mapping[str, Any]:
    """``usual``: what the family needs beside that, whatever the entry's defaults are."""
    fields = begins_with(str(endpoint.options.get("task", "")))
    files = {name: _plain(kind) for name, kind in fields.items()}
    # All of what is given is drawn anew: of one step, less would leave none.
    return {**endpoint.defaults, **usual, **ONE_STEP, "strength": 1.0, **files}


def _plain(kind: GivenKind) -> Any:
    return {GivenKind.PICTURE: _grey, GivenKind.CLIP: _Still, GivenKind.SOUND: _Silence}[kind]()


def _grey(size: Size = SIDES) -> Image:
    from PIL import Image  # noqa: PLC0415

    return Image.new("RGB", (size.width, size.height), GREY)


class _Still:
    """In place of an ``engine.clip_reading.GivenClip``."""

    size = (SIDES.width, SIDES.height)
    fps = Fraction(16)

    def frames(self, width: int, height: int, _fps: Fraction, most: int) -> list[Image]:
        return [_grey(Size(width, height))] * most


class _Silence:
    """In place of an ``engine.sound_reading.GivenSound``."""

    def samples(self, rate: int, channels: int, most_s: float) -> np.ndarray[Any, Any]:
        import numpy as np  # noqa: PLC0415

        return np.zeros((channels, round(rate * min(most_s, 1.0))), np.float32)
