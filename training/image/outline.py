"""The outlines of the nine shapes, and how much of an image's pixels each covers."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from training.outline import SQUARE, TRIANGLE, Point, mask, turns

#: Radius of a ring's hole, as a part of the ring's.
_HOLE: Final = 0.55
#: Half the width of a cross's arms, and of a diamond.
_ARM: Final = 0.34
_DIAMOND: Final = 0.74


def _star() -> list[Point]:
    points = []
    for i in range(10):
        radius = 1.0 if i % 2 == 0 else 0.42
        turn = math.pi * i / 5 - math.pi / 2
        points.append((radius * math.cos(turn), radius * math.sin(turn)))
    return points


def _heart() -> list[Point]:
    points = []
    for i in range(72):
        turn = 2 * math.pi * i / 72
        x = 16 * math.sin(turn) ** 3
        y = (
            13 * math.cos(turn)
            - 5 * math.cos(2 * turn)
            - 2 * math.cos(3 * turn)
            - math.cos(4 * turn)
        )
        points.append((x, -y))
    return points


def _normalised(points: list[Point]) -> list[Point]:
    """The same outline, centred on the origin, its larger side stretched from -1 to 1."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    centre_x, centre_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    return [((x - centre_x) / half, (y - centre_y) / half) for x, y in points]


_CIRCLE: Final = turns(144)
_CROSS: Final = [
    (-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM),
    (_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM),
]  # fmt: skip

#: Each shape's corners; x runs right and y down, the larger side from -1 to 1.
OUTLINES: Final[dict[str, list[Point]]] = {
    "circle": _CIRCLE,
    "square": SQUARE,
    "triangle": TRIANGLE,
    "star": _normalised(_star()),
    "heart": _normalised(_heart()),
    "ring": _CIRCLE,
    "cross": _CROSS,
    "hexagon": turns(6),
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
    covered[top:bottom, left:right] = mask(
        OUTLINES[shape],
        centre=centre,
        radius=radius,
        box=(left, top, right, bottom),
        hole=_HOLE if shape == "ring" else 0.0,
    )
    return covered
