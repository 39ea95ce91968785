"""The outlines of the nine shapes, as polygons in the unit square, and their antialiased masks."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from training.outline import OUTLINES as FIRST_OUTLINES
from training.outline import Point

#: Masks are drawn this many times larger and averaged down, which antialiases their edges.
SUPERSAMPLE: Final = 4

#: Radius of a ring's hole, as a part of the ring's.
_HOLE: Final = 0.55
#: Half the width of a cross's arms, and of a diamond.
_ARM: Final = 0.34
_DIAMOND: Final = 0.74


def _turns(corners: int) -> list[Point]:
    turns = [2 * math.pi * i / corners for i in range(corners)]
    return [(math.cos(turn), math.sin(turn)) for turn in turns]


_CIRCLE: Final = _turns(144)
_CROSS: Final = [
    (-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM),
    (_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM),
]  # fmt: skip

#: Each shape's corners; x runs right and y down, the larger side from -1 to 1.
OUTLINES: Final[dict[str, list[Point]]] = {
    "circle": _CIRCLE,
    "square": FIRST_OUTLINES["square"],
    "triangle": FIRST_OUTLINES["triangle"],
    "star": FIRST_OUTLINES["star"],
    "heart": FIRST_OUTLINES["heart"],
    "ring": _CIRCLE,
    "cross": _CROSS,
    "hexagon": _turns(6),
    "diamond": [(0.0, -1.0), (_DIAMOND, 0.0), (0.0, 1.0), (-_DIAMOND, 0.0)],
}


def cover(shape: str, *, centre: Point, radius: float, width: int, height: int) -> np.ndarray:
    """How much of each pixel the shape covers: float32 [height, width], 0 to 1."""
    covered = np.zeros((height, width), dtype=np.float32)
    left, top = (max(0, math.floor(middle - radius) - 1) for middle in centre)
    right, bottom = (
        min(side, math.ceil(middle + radius) + 1)
        for side, middle in zip((width, height), centre, strict=True)
    )
    scale = SUPERSAMPLE
    canvas = Image.new("L", ((right - left) * scale, (bottom - top) * scale), 0)
    pen = ImageDraw.Draw(canvas)

    def fill(points: list[Point], size: float, value: int) -> None:
        corners = [
            ((centre[0] + x * size - left) * scale, (centre[1] + y * size - top) * scale)
            for x, y in points
        ]
        pen.polygon(corners, fill=value)

    fill(OUTLINES[shape], radius, 255)
    if shape == "ring":
        fill(_CIRCLE, radius * _HOLE, 0)
    drawn = np.asarray(canvas.reduce(scale), dtype=np.float32) / 255.0
    covered[top:bottom, left:right] = drawn
    return covered
