"""How much an input asks for, before it has run: what its time is expected by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

FACTORS = (
    "num_inference_steps",
    "steps",
    "number_of_steps",
    "num_images",
    "num_frames",
    "seconds_total",
)


def work_of(input: Mapping[str, Any]) -> float:
    """Steps × megapixels × pictures, frames or seconds, by fal's names of them; what an input does
    not have counts once. The unit means nothing by itself: seconds of it are learned for each
    endpoint."""
    return _megapixels(input) * math.prod(_number(input.get(name)) for name in FACTORS)


def _megapixels(input: Mapping[str, Any]) -> float:
    size = input.get("image_size")
    shape = size if isinstance(size, Mapping) else input
    width, height = shape.get("width"), shape.get("height")
    if width is None or height is None:
        return 1.0
    return _number(width) * _number(height) / 1e6


def _number(value: object) -> float:
    if isinstance(value, int | float) and value > 0 and math.isfinite(value):
        return float(value)
    return 1.0
