"""Sizes of images by name, and the size in the shape of an input image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from serve_app.domain.media.draft import FROM_DRAFT

PRESETS: Mapping[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
"""Name → (width, height) in pixels."""

MIN_SIDE, MAX_SIDE = 64, 14142  # pixels

MAX_MEGAPIXELS = 4.2
"""Of an image that is asked for; and of an input image, which is scaled down to it. The endpoint's
bounds may say otherwise."""

AUTO = "auto"
"""Name of the size in the shape of the input image, which the replica finds: see ``auto_size``."""

AUTO_AREA = 1024 * 1024
"""Most pixels of that size: what models are trained on, and one megapixel of a price."""

MULTIPLE = 16
"""Pixels. Its sides are multiples of it."""


def auto_size(width: int, height: int, area: float = AUTO_AREA) -> tuple[int, int]:
    """Size in this shape, with at most ``area`` and as many pixels as the image."""
    scale = min(1.0, math.sqrt(area / (width * height)))
    least = MIN_SIDE // MULTIPLE
    sides = [max(least, round(side * scale / MULTIPLE)) for side in (width, height)]
    shorter, longer = sorted(sides)
    most = min(int(area / MULTIPLE**2 / shorter), MAX_SIDE // MULTIPLE)
    longer = MULTIPLE * max(least, min(longer, most))
    shorter *= MULTIPLE
    return (longer, shorter) if width >= height else (shorter, longer)


def in_shape_of_image(input: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Input of a call whose output is to have the shape of its image: with the size ``AUTO``, if it
    has an image and no size, and the endpoint offers that. ``fields``: their JSON Schemas.

    This is the rule of all ways in but fal's protocol, which keeps fal's defaults. A draft decides
    the size of what goes on from it.
    """
    has_image = input.get("image_url") or input.get("image_urls")
    if not has_image or input.get("image_size") or input.get(FROM_DRAFT):
        return {**input}
    size = fields.get("image_size", {})
    offered = any(AUTO in schema.get("enum", ()) for schema in (size, *size.get("anyOf", ())))
    return {**input, "image_size": AUTO} if offered else {**input}
