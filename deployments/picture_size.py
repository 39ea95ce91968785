"""Which size to render so that a picture of the asked size can be made of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels."""

    width: int
    height: int

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


PRESETS: Mapping[str, Size] = {
    "square_hd": Size(1024, 1024),
    "square": Size(512, 512),
    "portrait_4_3": Size(768, 1024),
    "portrait_16_9": Size(576, 1024),
    "landscape_4_3": Size(1024, 768),
    "landscape_16_9": Size(1024, 576),
}


def asked_size(value: str | Mapping[str, Any]) -> Size:
    """The size that an input's ``image_size`` means."""
    if not isinstance(value, str):
        return Size(int(value["width"]), int(value["height"]))
    if value not in PRESETS:
        raise InvalidInput(f"image_size {value!r} is none of {', '.join(PRESETS)}.")
    return PRESETS[value]


def within(shape: Size, box: Size) -> Size:
    """The largest size of the shape's proportions that fits into the box."""
    scale = min(box.width / shape.width, box.height / shape.height)
    return Size(max(1, round(shape.width * scale)), max(1, round(shape.height * scale)))


def at_most(size: Size, megapixels: float) -> Size:
    """``size``, or one of its proportions with so many megapixels."""
    if size.megapixels <= megapixels:
        return size
    scale = math.sqrt(megapixels / size.megapixels)
    return Size(max(1, int(size.width * scale)), max(1, int(size.height * scale)))


def rendered_size(asked: Size, multiple: int, native: int | None) -> Size:
    """Both sides are multiples of ``multiple``.

    Without ``native``: the least size that covers the one asked for; the rest is cropped. With
    ``native`` (pixels; a model that knows one scale only): the longer side is that, and the shorter
    the one that loses the least when the picture is cropped to the asked shape.
    """
    if native is None:
        return Size(_up(asked.width, multiple), _up(asked.height, multiple))
    longer = _up(native, multiple)
    aspect = min(asked.width, asked.height) / max(asked.width, asked.height)
    below = max(multiple, math.floor(longer * aspect / multiple) * multiple)
    shorter = min((below, below + multiple), key=lambda side: _lost(side / longer, aspect))
    shorter = min(shorter, longer)
    return Size(longer, shorter) if asked.width >= asked.height else Size(shorter, longer)


def _up(side: int, multiple: int) -> int:
    return math.ceil(side / multiple) * multiple


def _lost(rendered: float, asked: float) -> float:
    """Share of a picture that is cropped away; both are shorter ÷ longer side."""
    return 1 - min(rendered, asked) / max(rendered, asked)
