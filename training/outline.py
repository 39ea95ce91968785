"""Outlines that the images and the videos share, as polygons in the unit square, and their masks.

A polygon's x runs right and y down, its larger side from -1 to 1.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
#: Left, top, right and bottom, in pixels.
Box = tuple[int, int, int, int]

#: Masks are drawn this many times larger and averaged down, which antialiases their edges.
_SUPERSAMPLE: Final = 4

SQUARE: Final[list[Point]] = [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
TRIANGLE: Final[list[Point]] = [(0.0, -0.9), (1.0, 0.9), (-1.0, 0.9)]


def turns(corners: int) -> list[Point]:
    """So many points of the unit circle: a circle if they are many, a hexagon if they are six."""
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def mask(
    outline: list[Point], *, centre: Point, radius: float, box: Box, hole: float = 0.0
) -> np.ndarray:
    """How much of each pixel of the box is covered: float32 [height, width], 0 to 1.

    ``hole`` is the radius of a smaller copy of the outline that is left out, as a part of `radius`.
    """
    left, top, right, bottom = box
    scale = _SUPERSAMPLE
    canvas = Image.new("L", ((right - left) * scale, (bottom - top) * scale), 0)
    pen = ImageDraw.Draw(canvas)

    def fill(size: float, value: int) -> None:
        corners = [
            ((centre[0] + x * size - left) * scale, (centre[1] + y * size - top) * scale)
            for x, y in outline
        ]
        pen.polygon(corners, fill=value)

    fill(radius, 255)
    if hole:
        fill(radius * hole, 0)
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / 255.0
