"""Tiles of a large image, whose memory a model would not have at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import darkroom

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PilImage

SIDE = 256  # pixels a side that the model sees at once: more needs memory by its square
OVERLAP = 16  # pixels around a tile, so that no seams are seen


def enlarged_image(
    image: PilImage,
    scale: int,
    model: Callable[[torch.Tensor], torch.Tensor],
    side: int | None = None,
) -> PilImage:
    """An RGB image with ``scale`` times the pixels a side. See ``enlarge``."""
    import numpy as np
    import torch
    from PIL import Image

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255  # [3, H, W]
    with torch.inference_mode():
        large = enlarge(pixels, scale, model, side)
    return Image.fromarray((large.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def enlarge(
    pixels: torch.Tensor,
    scale: int,
    model: Callable[[torch.Tensor], torch.Tensor],
    side: int | None = None,
) -> torch.Tensor:
    """``pixels`` [3, H, W] as [3, H × scale, W × scale] on the CPU, tile by tile.

    ``model``: of a tile [1, 3, h, w] it makes [1, 3, ≥ h × scale, ≥ w × scale]. ``side``: of the
    tiles; by default ``SIDE``.
    """
    side = side or SIDE
    _, height, width = pixels.shape
    large = pixels.new_zeros(3, height * scale, width * scale)
    corners = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
    for number, (top, left) in enumerate(corners):
        darkroom.progress(number, len(corners))
        bottom, right = min(top + side, height), min(left + side, width)
        # What is around the tile is computed too, and cut off.
        above, before = max(top - OVERLAP, 0), max(left - OVERLAP, 0)
        seen = pixels[:, above : bottom + OVERLAP, before : right + OVERLAP]
        output = model(seen[None])[0].cpu()
        large[:, top * scale : bottom * scale, left * scale : right * scale] = output[
            :,
            (top - above) * scale : (bottom - above) * scale,
            (left - before) * scale : (right - before) * scale,
        ]
    return large
