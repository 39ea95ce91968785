"""The synthetic world: one or two flat objects on a plain background.

A `Scene` is the ground truth of one image. `sample_scene` draws one, `render` paints it, and
`is_held_out` says whether training must never see it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from training.outline import OUTLINES, mask
from training.palette import BACKGROUND_COLOURS, DEFAULT_BACKGROUND, OBJECT_COLOURS

#: The longer side of every image, in pixels.
SIDE: Final = 128

COLOURS: Final = tuple(OBJECT_COLOURS)
SHAPES: Final = tuple(OUTLINES)
BACKGROUNDS: Final = tuple(BACKGROUND_COLOURS)
SIZES: Final = ("small", "medium", "large")

#: Where the first object stands as seen from the second. `beside`: no relation was named, and the
#: first stands on the left, as one reads.
RELATIONS: Final = ("above", "below", "left of", "right of", "beside")

#: Radii in pixels of an object that is alone, and of one of two. Like the strays below they vary
#: little: a tiny model learns soonest to draw crisply what its prompt does not leave open.
_SINGLE_RADII: Final = {"small": (15.7, 16.3), "medium": (29.5, 30.5), "large": (45.5, 46.5)}
_PAIR_RADII: Final = {"small": (13.8, 14.2), "medium": (19.8, 20.2), "large": (25.8, 26.2)}

#: How far an object may be from its regular place, each way, in pixels of a square image.
_SINGLE_STRAY: Final = 3.0
_PAIR_STRAY: Final = 1.0

#: In a narrow image things shrink, but no further than this, in pixels.
_LEAST_RADIUS: Final = 9.0

_PAIRS_HELD_OUT_ONE_IN: Final = 8


@dataclass(frozen=True)
class Thing:
    """One object. `x`, `y` and `radius` are in pixels; the radius is half its larger side."""

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
class Scene:
    """One or two things; with two, `relation` says where the first is, seen from the second.

    `width` and `height` are in pixels; the longer of them is `SIDE`.
    """

    things: tuple[Thing, ...]
    relation: str | None
    background: str
    width: int = SIDE
    height: int = SIDE


#: Every colour lacks one shape in training; a model draws these only if it composes.
UNSEEN_LOOKS: Final = frozenset(
    (colour, SHAPES[(2 * i + 1) % len(SHAPES)]) for i, colour in enumerate(COLOURS)
)


def is_held_out(scene: Scene) -> bool:
    """Whether the scene belongs to the test split: an unseen look, or an unseen pair of looks.

    Neither order, nor relation, size, place or background moves a scene across the split.
    """
    looks = sorted(thing.look for thing in scene.things)
    if any(look in UNSEEN_LOOKS for look in looks):
        return True
    return len(looks) > 1 and zlib.crc32(repr(looks).encode()) % _PAIRS_HELD_OUT_ONE_IN == 0


def sample_scene(
    rng: np.random.Generator,
    *,
    pair: bool,
    held_out: bool = False,
    width: int = SIDE,
    height: int = SIDE,
) -> Scene:
    """A random scene of the wanted split."""
    sample = _sample_pair if pair else _sample_single
    while True:
        scene = sample(rng, width, height)
        if is_held_out(scene) == held_out:
            return scene


def render(scene: Scene) -> Image.Image:
    """The scene as an antialiased RGB image."""
    return Image.fromarray((render_array(scene) * 255.0).round().astype(np.uint8))


def render_array(scene: Scene) -> np.ndarray:
    """The scene as float32 [height, width, 3], 0 to 1."""
    canvas = np.empty((scene.height, scene.width, 3), dtype=np.float32)
    canvas[:] = np.asarray(BACKGROUND_COLOURS[scene.background], dtype=np.float32) / 255.0
    for thing, cover in zip(scene.things, masks(scene)[..., None], strict=True):
        colour = np.asarray(OBJECT_COLOURS[thing.colour], dtype=np.float32) / 255.0
        canvas = canvas * (1.0 - cover) + colour * cover
    return canvas


def masks(scene: Scene) -> np.ndarray:
    """How much of each pixel each thing covers: float32 [things, height, width]."""
    drawn = [
        mask(thing.shape, centre=(thing.x, thing.y), radius=thing.radius, side=SIDE)
        for thing in scene.things
    ]
    return np.stack(drawn)[:, : scene.height, : scene.width]


def radius_scale(relation: str | None, width: int, height: int) -> float:
    """How much smaller things are than in a square image, so that they keep apart."""
    if relation is None:
        return min(width, height) / SIDE
    along, across = (height, width) if relation in ("above", "below") else (width, height)
    return min(along / SIDE, across / 76)


def size_of(radius: float, *, pair: bool) -> str:
    """The size whose usual radius is nearest, for an object that is one of two or alone."""
    radii = _PAIR_RADII if pair else _SINGLE_RADII
    return min(SIZES, key=lambda size: abs(sum(radii[size]) / 2 - radius))


def _sample_single(rng: np.random.Generator, width: int, height: int) -> Scene:
    size = _sample_size(rng)
    radius = rng.uniform(*_SINGLE_RADII[size]) * radius_scale(None, width, height)
    radius = max(radius, _LEAST_RADIUS)
    middle = np.array([width / 2, height / 2])
    x, y = middle + rng.uniform(-_SINGLE_STRAY, _SINGLE_STRAY, size=2)
    thing = Thing(*_sample_look(rng), size, float(x), float(y), float(radius))
    return Scene((thing,), None, _sample_background(rng, {thing.colour}), width, height)


def _sample_pair(rng: np.random.Generator, width: int, height: int) -> Scene:
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    first_look = second_look = _sample_look(rng)
    while second_look == first_look:
        second_look = _sample_look(rng)
    first, second = (
        _place(rng, look, relation, along, (width, height))
        for look, along in zip((first_look, second_look), _ends(relation), strict=True)
    )
    background = _sample_background(rng, {first.colour, second.colour})
    return Scene((first, second), relation, background, width, height)


def _ends(relation: str) -> tuple[float, float]:
    """Where the first and the second thing stand, as parts of the side that relates them."""
    return (0.25, 0.75) if relation in ("above", "left of", "beside") else (0.75, 0.25)


def _place(
    rng: np.random.Generator,
    look: tuple[str, str],
    relation: str,
    end: float,
    sides: tuple[int, int],
) -> Thing:
    size = _sample_size(rng)
    radius = float(rng.uniform(*_PAIR_RADII[size])) * radius_scale(relation, *sides)
    vertical = relation in ("above", "below")
    middle = (0.5, end) if vertical else (end, 0.5)
    x, y = (
        float(side * (part + rng.uniform(-_PAIR_STRAY, _PAIR_STRAY) / SIDE))
        for side, part in zip(sides, middle, strict=True)
    )
    return Thing(*look, size, x, y, max(radius, _LEAST_RADIUS))


def _sample_look(rng: np.random.Generator) -> tuple[str, str]:
    return COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]


def _sample_size(rng: np.random.Generator) -> str:
    return str(rng.choice(SIZES, p=[0.25, 0.5, 0.25]))


def _sample_background(rng: np.random.Generator, taken: set[str]) -> str:
    """White half of the time, since a prompt that names no background means white."""
    if rng.random() < 0.5:
        return DEFAULT_BACKGROUND
    free = [name for name in BACKGROUNDS if name not in taken]
    return free[rng.integers(len(free))]
