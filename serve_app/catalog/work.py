"""Work of an input, before it runs: the basis of its expected time, and whether it is too large."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from serve_app.catalog.fields.fields import STEPS
from serve_app.domain.billing.price import Quantities, decimal_of, rounded_megapixels
from serve_app.domain.endpoint import Endpoint, RequestedWork
from serve_app.domain.media.draft import DRAFT, step_of_draft
from serve_app.options.inputs import InputType, declared_inputs
from serve_app.options.results import declared_result

FACTORS = (*STEPS, "num_images", "seconds_total")

USUAL_FRAME_RATE = 16
"""Frames a second of a video whose input has no field for it."""

_LINES = re.compile(r"(\d{3,4})p")


def work_of(input: Mapping[str, Any]) -> float:
    """Steps × megapixels × images, frames or seconds, from fal's field names. A missing field
    counts as 1. The unit has no meaning of its own: its time in seconds is learned per endpoint."""
    per_step = _megapixels(input) * _frames(input)
    steps = math.prod(_number(input.get(name)) for name in FACTORS)
    return per_step * steps * _seeds(input) * _drafts(input)


def requested_work(input: Mapping[str, Any]) -> RequestedWork | None:
    """Size and number of what an input asks for. None where only the replica knows, such as for
    an image that is redrawn in its own size."""
    size = input.get("image_size")
    shape = size if isinstance(size, Mapping) else input
    width, height = shape.get("width"), shape.get("height")
    lines = _LINES.fullmatch(str(input.get("resolution", "")))
    if not (isinstance(width, int) and isinstance(height, int)):
        if lines is None:
            return None
        width, height = int(lines[1]) * 16 // 9, int(lines[1])
    images = int(_number(input.get("num_images")))
    return RequestedWork(width, height, max(1, int(_frames(input))), images)


def _files_of_each(endpoint: Endpoint, input: Mapping[str, Any]) -> int:
    """Number of files for one image: several, where the entry declares maps, a mesh or layers."""
    result = declared_result(endpoint)
    if result is None:
        return 1
    return len(result.files) or layers_of(endpoint, input)


def layers_of(endpoint: Endpoint, input: Mapping[str, Any]) -> int:
    """Number of layers that an image gets; 1, where the entry declares none."""
    if declared_result(endpoint) is None:
        return 1
    declared = declared_inputs(endpoint).items()
    names = (name for name, field in declared if field.type is InputType.LAYERS)
    return math.prod(int(_number(input.get(name))) for name in names)


def expected_quantities(
    endpoint: Endpoint, input: Mapping[str, Any], left: float = 1.0
) -> Quantities:
    """What an input will make, before it runs, as far as its fields say: one image of a megapixel,
    or one second, where they do not. Each map and layer counts as an image. The time on a GPU is
    not known here.

    ``left``: share of the steps that are left after the draft from which it goes on.
    """
    outputs = _seeds(input) * number_of_drafts(input)
    images = int(_number(input.get("num_images"))) * outputs * _files_of_each(endpoint, input)
    share = decimal_of(_share_of_draft(input) * left).normalize()
    length = length_of(input)
    seconds = Decimal(1) if length is None else decimal_of(length)
    return Quantities(
        images=images,
        megapixels=images * rounded_megapixels(_megapixels(input) * 1e6),
        seconds=seconds * outputs * share,
        share=share,
    )


def length_of(input: Mapping[str, Any]) -> float | None:
    """Seconds of video or audio that an input asks for; None: it does not say, or as `auto`."""
    if (frames := _read(input.get("num_frames"))) is not None:
        rate = input.get("fps") or input.get("frames_per_second") or input.get("frame_rate")
        return frames / _number(rate or USUAL_FRAME_RATE)
    lengths = (_read(input.get(name)) for name in ("seconds_total", "duration"))
    known = [seconds for seconds in lengths if seconds is not None]
    return math.prod(known) if known else None


def check_request(endpoint: Endpoint, input: Mapping[str, Any], device_bytes: int | None) -> None:
    """Raise ``InvalidInput`` if a GPU with ``device_bytes`` cannot make what ``input`` asks for.

    ``device_bytes`` None: unknown, and the replica checks. Then nothing is raised.
    """
    recipe = None if device_bytes is None else endpoint.recipe_for(device_bytes)
    work = requested_work(input)
    if recipe is not None and recipe.largest is not None and work is not None:
        recipe.largest.check(work, endpoint.id, recipe.memory_gb)


def _seeds(input: Mapping[str, Any]) -> int:
    """Number of seeds, unless they are already counted as images."""
    seeds = None if drafting_of(input) else input.get("seeds")
    return len(seeds) if isinstance(seeds, list) and seeds and "num_images" not in input else 1


def _drafts(input: Mapping[str, Any]) -> float:
    """Whole outputs that take as many steps as the drafts; 1 without drafts."""
    drafting = drafting_of(input)
    if drafting is None:
        return 1.0
    share = drafting.get("until") or max(0.05, 1 - drafting["noise"])
    return drafting["count"] * share


def drafting_of(input: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the drafts of a validated input should be: their ``count``, and ``until`` or ``noise``.

    None: it asks for none. A field of an app may have the same name, and any value.
    """
    value = input.get(DRAFT)
    if not isinstance(value, Mapping):
        return None
    drafting = cast("Mapping[str, Any]", value)
    share = drafting.get("until") or drafting.get("noise")
    is_drafting = isinstance(drafting.get("count"), int) and isinstance(share, int | float)
    return drafting if is_drafting else None


def number_of_drafts(input: Mapping[str, Any]) -> int:
    """Previews that are made in place of each output; 1 without drafts."""
    drafting = drafting_of(input)
    return 1 if drafting is None else drafting["count"]


def _share_of_draft(input: Mapping[str, Any]) -> float:
    """Share of its steps that a draft makes. 1 without drafts, and where the input does not tell
    their number: a draft never costs more than a whole output."""
    until = (drafting_of(input) or {}).get("until")
    requested = next((count for name in STEPS if (count := _read(input.get(name)))), None)
    if until is None or requested is None:
        return 1.0
    strength = _read(input.get("strength")) or 1.0
    steps = max(int(requested * min(strength, 1.0)), 2)
    return step_of_draft(until, steps) / steps


def _megapixels(input: Mapping[str, Any]) -> float:
    """Megapixels of one output; 1 where only the replica knows them, and at most 1 for `auto`."""
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
    """Value as a positive number, else 1."""
    number = _read(value)
    return 1.0 if number is None else number


def _read(value: object) -> float | None:
    """Value as a positive number, if it is one. Some of fal's choices among numbers are texts, and
    some of those among seconds have their unit: `8s`."""
    amount = value.removesuffix("s") if isinstance(value, str) else value
    try:
        number = float(amount) if isinstance(amount, int | float | str) else 0.0
    except (ValueError, OverflowError):
        return None
    return number if number > 0 and math.isfinite(number) else None
