"""Input of the warm-up generation of loaded weights: one step, with plain files if the task takes
any. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from deployments.engine.media.input import InputKind
from deployments.families.base import WarmsUp
from deployments.families.image_io import Size
from deployments.families.options import required_files
from serve_app.domain.endpoint import Endpoint

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

WARM_UP_DEFAULTS = {"prompt": "a lighthouse", "num_inference_steps": 1}

GREY = (128, 128, 128)
SIDES = Size(832, 480)  # of the input image or video


def warm_up_input(endpoint: Endpoint, **usual: Any) -> Mapping[str, Any]:
    """Warm-up input. ``usual`` overrides the entry's defaults with what the family needs."""
    fields = required_files(str(endpoint.options.get("task", "")))
    files = {name: plain_file(kind) for name, kind in fields.items()}
    # Full strength: with only one step, any lower strength would leave no step at all.
    return {**endpoint.defaults, **usual, **WARM_UP_DEFAULTS, "strength": 1.0, **files}


def short_call(family: WarmsUp, endpoint: Endpoint, pipeline: Any) -> Mapping[str, Any]:
    """Arguments of a family's warm-up call."""
    call = family.warm_up(endpoint, pipeline)
    return call.arguments if call.view is None else {**call.arguments, "view": call.view}


def plain_file(kind: InputKind) -> Any:
    """File without content of a kind, as inputs have it after decoding."""
    files: Mapping[InputKind, Callable[[], Any]] = {
        InputKind.IMAGE: _grey,
        InputKind.MASK: lambda: _grey().convert("L"),
        InputKind.VIDEO: _Still,
        InputKind.AUDIO: _Silence,
    }
    return files[kind]()


def _grey(size: Size = SIDES) -> Image:
    from PIL import Image  # noqa: PLC0415

    return Image.new("RGB", (size.width, size.height), GREY)


class _Still:
    """Replacement for an ``engine.media`` video: a still grey video."""

    size = (SIDES.width, SIDES.height)
    fps = Fraction(16)

    def frames(self, width: int, height: int, _fps: Fraction, most: int) -> list[Image]:
        return [_grey(Size(width, height))] * most


class _Silence:
    """Replacement for an ``engine.media`` audio: silence."""

    def samples(self, rate: int, channels: int, most_s: float) -> np.ndarray[Any, Any]:
        import numpy as np  # noqa: PLC0415

        return np.zeros((channels, round(rate * min(most_s, 1.0))), np.float32)
