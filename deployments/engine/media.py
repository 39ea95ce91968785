"""Tensors to picture files. Never on the engine's thread: a large picture takes tens of
milliseconds, and every generation would wait for it."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from serve_app.domain.errors import Unsupported

_ENCODERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # Above level 4, PNG takes several times as long for a few per cent.
    "image/png": ("PNG", {"compress_level": 4}),
    "image/jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "image/webp": ("WEBP", {"quality": 92, "method": 4}),
}


def levels_of(pixels: torch.Tensor) -> torch.Tensor:
    """``pixels``: [n, 3, height, width] from 0 to 1, on any device and of any float type; gives
    uint8 [n, height, width, 3], there."""
    levels = pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


def to_levels(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """The same on the host."""
    return levels_of(pixels).cpu().numpy()


def to_pictures(pixels: torch.Tensor) -> list[Image.Image]:
    """As ``to_levels`` takes them."""
    return [Image.fromarray(picture) for picture in to_levels(pixels)]


def fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of ``picture`` in the shape of width × height, resized to exactly that."""
    scale = min(picture.width / width, picture.height / height)
    # Both fit; what rounding adds to one of them would be refused as outside of the picture.
    across, down = min(width * scale, picture.width), min(height * scale, picture.height)
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    if scale == 1:
        left, top = int(left), int(top)
        return picture.crop((left, top, left + width, top + height))
    box = (left, top, left + across, top + down)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


def stretch(picture: Image.Image, width: int, height: int) -> Image.Image:
    """All of ``picture``, in width × height."""
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def encode(picture: Image.Image, media_type: str) -> bytes:
    """A file without any metadata. ``Unsupported`` for a type that is no picture's."""
    if media_type not in _ENCODERS:
        raise Unsupported(f"Pictures are not written as {media_type}.")
    name, options = _ENCODERS[media_type]
    buffer = BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()
