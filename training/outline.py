"""The outlines of the five shapes, as polygons in the unit square, and their antialiased masks."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]

#: Masks are drawn this many times larger and averaged down, which antialiases their edges.
SUPERSAMPLE: Final = 4


def _circle() -> list[Point]:
    turns = [2 * math.pi * i / 72 for i in range(72)]
    return [(math.cos(turn), math.sin(turn)) for turn in turns]


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


#: Each shape's corners; x runs right and y down, the larger side from -1 to 1.
OUTLINES: Final[dict[str, list[Point]]] = {
    "circle": _normalised(_circle()),
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": _normalised([(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),
    "star": _normalised(_star()),
    "heart": _normalised(_heart()),
}


def mask(shape: str, *, centre: Point, radius: float, side: int) -> np.ndarray:
    """How much of each pixel the shape covers: float32 [side, side], 0 to 1."""
    scale = SUPERSAMPLE
    canvas = Image.new("L", (side * scale, side * scale), 0)
    corners = [
        ((centre[0] + x * radius) * scale, (centre[1] + y * radius) * scale)
        for x, y in OUTLINES[shape]
    ]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(scale), dtype=np.float32) / 255.0
