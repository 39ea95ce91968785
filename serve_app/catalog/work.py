"""Estimated work of an input, before it runs: the basis of its expected time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

FACTORS = ("num_inference_steps", "steps", "number_of_steps", "num_images", "seconds_total")

_LINES = re.compile(r"(\d{3,4})p")


def work_of(input: Mapping[str, Any]) -> float:
    """Steps × megapixels × images, frames or seconds, from fal's field names. A missing field
    counts as 1. The unit has no meaning of its own: its time in seconds is learned per endpoint."""
    each = _megapixels(input) * _frames(input)
    return each * math.prod(_number(input.get(name)) for name in FACTORS) * _seeds(input)


def _seeds(input: Mapping[str, Any]) -> int:
    """Number of seeds, unless they are already counted as images."""
    seeds = input.get("seeds")
    return len(seeds) if isinstance(seeds, list) and seeds and "num_images" not in input else 1


def _megapixels(input: Mapping[str, Any]) -> float:
    size = input.get("image_size")
    shape = size if isinstance(size, Mapping) else input
    width, height = shape.get("width"), shape.get("height")
    if width is not None and height is not None:
        return _number(width) * _number(height) / 1e6
    lines = _LINES.fullmatch(str(input.get("resolution", "")))
    return 1.0 if lines is None else int(lines[1]) ** 2 * 16 / 9 / 1e6


def _frames(input: Mapping[str, Any]) -> float:
    if input.get("num_frames") is not None:
        return _number(input["num_frames"])
    return _number(input.get("duration")) * _number(input.get("fps"))


def _number(value: object) -> float:
    """Value as a positive number, else 1. Some of fal's choices among numbers are texts."""
    try:
        number = float(value) if isinstance(value, int | float | str) else 1.0
    except ValueError:
        return 1.0
    return number if number > 0 and math.isfinite(number) else 1.0
