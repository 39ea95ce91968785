"""Images, masks, videos and audio that calls begin from; the same for the same wish."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from tests.engine.conformance.case import Wish


def image(wish: Wish, side: int = 16) -> Image.Image:
    return _image(np.random.default_rng(wish.seed), side)


def video(wish: Wish, frames: int, side: int = 16) -> list[Image.Image]:
    random = np.random.default_rng(wish.seed)
    return [_image(random, side) for _ in range(frames)]


def mask(wish: Wish, side: int = 16) -> Image.Image:
    """White where the image is to change: a half of it, or less."""
    white = np.zeros((side, side), np.uint8)
    white[:, side // 2 :] = 255
    white[: side // 4 * (wish.seed % 3)] = 0
    return Image.fromarray(white)


def image_tensor(wish: Wish, side: int = 16) -> torch.Tensor:
    """float32 [1, 3, side, side], from 0 to 1."""
    return torch.rand(1, 3, side, side, generator=wish.generator())


def noise(wish: Wish, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=wish.generator())


def _image(random: np.random.Generator, side: int) -> Image.Image:
    return Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
