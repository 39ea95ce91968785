"""The synthetic world: one to four flat objects on a plain background.

A `Composition` is the ground truth of one image. `sample` draws one, `render` paints it, and
`is_held_out` says whether training must never see it. All lengths are in pixels, of any image size.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from training.image.outline import OUTLINES, cover
from training.palette import BACKGROUND_COLOURS

#: The longer side of the images that are trained on.
SIDE: Final = 256

BACKGROUNDS: Final = tuple(BACKGROUND_COLOURS)
#: What an object can be painted in. A gray one would be hard to see on gray, which is the default
#: background of a white one.
COLOURS: Final = tuple(name for name in BACKGROUNDS if name != "gray")
SHAPES: Final = tuple(OUTLINES)
SIZES: Final = ("small", "medium", "large")

#: Where the first of two objects stands as seen from the second. `beside`: no relation was named,
#: and the first stands on the left, as one reads.
RELATIONS: Final = ("above", "below", "left of", "right of", "beside")
_VERTICAL: Final = ("above", "below")
_HORIZONTAL: Final = ("left of", "right of")

#: `single`: one object. `pair`: two, related. `corner`: three, the first related to the second
#: vertically and to the third horizontally, or the other way round. `row`: three different ones
#: from left to right, or from top to bottom in a portrait, where they would be tiny. `group`: two
#: to four that look the same, in a row or two by two.
LAYOUTS: Final = ("single", "pair", "corner", "row", "group")
MOST_OBJECTS: Final = 4

#: The radius of an object that is alone, as a part of the shorter side, and of one of several, as a
#: part of its cell's shorter side. Like the strays below they hardly vary: a tiny model learns
#: soonest to draw crisply what its prompt does not leave open.
_SINGLE_RADII: Final = {"small": 0.125, "medium": 0.235, "large": 0.36}
_CELL_RADII: Final = {"small": 0.23, "medium": 0.32, "large": 0.41}
_RADIUS_STRAY: Final = 0.015

#: How far an object may be from its cell's middle, each way, as a part of the cell's shorter side.
_STRAY: Final = 0.012

_HELD_OUT_ONE_IN: Final = 8


@dataclass(frozen=True)
class Item:
    """One object. The radius is half its larger side."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def look(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class Relation:
    """Where the object with the number `first` stands, seen from the one with `second`."""

    first: int
    second: int
    name: str


@dataclass(frozen=True)
class Composition:
    """The objects in the order in which a prompt names them, and what it says of their places."""

    layout: str
    items: tuple[Item, ...]
    relations: tuple[Relation, ...]
    background: str
    width: int = SIDE
    height: int = SIDE

    @property
    def default_background(self) -> str:
        """The background that is meant where none is named."""
        return default_background({item.colour for item in self.items})


#: Every colour has one shape that training shows less often: alone or as a group, in half of the
#: sizes and backgrounds.
RARE_LOOKS: Final = frozenset(
    (colour, SHAPES[(2 * i + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS)
)


def default_background(colours: set[str]) -> str:
    """White, or gray behind objects of which one is white."""
    return "gray" if "white" in colours else "white"


def is_held_out(composition: Composition) -> bool:
    """Whether it belongs to the test split: one combination of different looks in eight, or a rare
    look in a size and before a background that training never shows it in.

    Neither order, nor relation or place moves a composition across the split, nor do size and
    background where looks differ.
    """
    looks = sorted({item.look for item in composition.items})
    if len(looks) > 1:
        return _chance(looks) % _HELD_OUT_ONE_IN == 0
    (look,) = looks
    setting = look, composition.items[0].size, composition.background
    return look in RARE_LOOKS and _chance(setting) % 2 == 0


def _chance(of: object) -> int:
    return zlib.crc32(repr(of).encode())


def sample(
    rng: np.random.Generator,
    layout: str,
    *,
    held_out: bool = False,
    width: int = SIDE,
    height: int = SIDE,
) -> Composition:
    """A random composition of the wanted split."""
    while True:
        composition = _sample(rng, layout, width, height)
        if is_held_out(composition) == held_out:
            return composition


def render(composition: Composition) -> Image.Image:
    """The composition as an antialiased RGB image."""
    return Image.fromarray((render_array(composition) * 255.0).round().astype(np.uint8))


def render_array(composition: Composition) -> np.ndarray:
    """The composition as float32 [height, width, 3], 0 to 1."""
    canvas = np.empty((composition.height, composition.width, 3), dtype=np.float32)
    canvas[:] = np.asarray(BACKGROUND_COLOURS[composition.background], dtype=np.float32) / 255.0
    for item in composition.items:
        colour = np.asarray(BACKGROUND_COLOURS[item.colour], dtype=np.float32) / 255.0
        covered = cover_of(composition, item)[..., None]
        canvas += covered * (colour - canvas)
    return canvas


def cover_of(composition: Composition, item: Item) -> np.ndarray:
    """How much of each pixel the item covers: float32 [height, width]."""
    return cover(
        item.shape,
        centre=(item.x, item.y),
        radius=item.radius,
        width=composition.width,
        height=composition.height,
    )


def usual_radius(size: str, composition: Composition) -> float:
    """The mean radius of an object of that size in such a composition."""
    width, height = composition.width, composition.height
    if composition.layout == "single":
        return _SINGLE_RADII[size] * min(width, height)
    vertical = height > width if composition.layout in ("row", "group") else False
    if composition.layout == "pair":
        vertical = composition.relations[0].name in _VERTICAL
    columns, rows = _grid(composition.layout, len(composition.items), vertical=vertical)
    return _CELL_RADII[size] * min(width / columns, height / rows)


def _grid(layout: str, count: int, *, vertical: bool = False) -> tuple[int, int]:
    """Columns and rows of the cells that a layout takes its places from."""
    if layout == "corner" or count == MOST_OBJECTS:
        return 2, 2
    return (1, count) if vertical else (count, 1)


def _sample(rng: np.random.Generator, layout: str, width: int, height: int) -> Composition:
    count, relations, cells, grid = _plan(rng, layout, portrait=height > width)
    looks = _sample_looks(rng, 1 if layout == "group" else count)
    looks *= count // len(looks)
    sizes = [_sample_size(rng) for _ in looks]
    if layout == "group":
        sizes = sizes[:1] * count
    cell = width / grid[0], height / grid[1]
    radii = _SINGLE_RADII if layout == "single" else _CELL_RADII
    items = []
    for look, size, place in zip(looks, sizes, cells, strict=True):
        vary = 1.0 + rng.uniform(-_RADIUS_STRAY, _RADIUS_STRAY)
        stray = rng.uniform(-_STRAY, _STRAY, size=2) * min(cell)
        x, y = ((at + 0.5) * side for at, side in zip(place, cell, strict=True))
        radius = radii[size] * min(cell) * vary
        items.append(Item(*look, size, float(x + stray[0]), float(y + stray[1]), float(radius)))
    background = _sample_background(rng, {item.colour for item in items})
    return Composition(layout, tuple(items), relations, background, width, height)


Cell = tuple[int, int]


def _plan(
    rng: np.random.Generator, layout: str, *, portrait: bool
) -> tuple[int, tuple[Relation, ...], list[Cell], Cell]:
    """How many objects, their relations, the cell (column, row) of each, and the grid's sides."""
    if layout == "single":
        return 1, (), [(0, 0)], (1, 1)
    if layout == "row":
        name = "above" if portrait else "beside"
        relations = Relation(0, 1, name), Relation(1, 2, name)
        cells = [(0, i) if portrait else (i, 0) for i in range(3)]
        return 3, relations, cells, _grid(layout, 3, vertical=portrait)
    if layout == "group":
        count = int(rng.integers(2, MOST_OBJECTS + 1))
        columns, rows = _grid(layout, count, vertical=portrait)
        return count, (), [(i % columns, i // columns) for i in range(count)], (columns, rows)
    if layout == "pair":
        name = RELATIONS[rng.integers(len(RELATIONS))]
        ends = _ends(name)
        vertical = name in _VERTICAL
        cells = [(0, end) if vertical else (end, 0) for end in ends]
        return 2, (Relation(0, 1, name),), cells, _grid(layout, 2, vertical=vertical)
    down = _VERTICAL[rng.integers(2)]
    across = _HORIZONTAL[rng.integers(2)]
    (column, other_column), (row, other_row) = _ends(across), _ends(down)
    below, aside = (column, other_row), (other_column, row)
    if rng.random() < 0.5:
        relations = Relation(0, 1, down), Relation(0, 2, across)
        return 3, relations, [(column, row), below, aside], (2, 2)
    relations = Relation(0, 1, across), Relation(0, 2, down)
    return 3, relations, [(column, row), aside, below], (2, 2)


def _ends(relation: str) -> tuple[int, int]:
    """The cells of the first and the second object along the side that relates them."""
    return (0, 1) if relation in ("above", "left of", "beside") else (1, 0)


def _sample_looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        look = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
        if look not in looks:
            looks.append(look)
    return looks


def _sample_size(rng: np.random.Generator) -> str:
    return str(rng.choice(SIZES, p=[0.25, 0.5, 0.25]))


def _sample_background(rng: np.random.Generator, taken: set[str]) -> str:
    """The default half of the time, since a prompt that names no background means it."""
    if rng.random() < 0.5:
        return default_background(taken)
    free = [name for name in BACKGROUNDS if name not in taken]
    return free[rng.integers(len(free))]
