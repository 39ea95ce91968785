"""Judges an image by its pixels alone: what stands where, in which colour and shape.

It knows the world's palette and outlines and nothing of any model. `read` says what it sees;
`judge` compares that with what was asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from training.blobs import Blob, find_blobs
from training.outline import OUTLINES, mask
from training.palette import BACKGROUND_COLOURS, OBJECT_COLOURS, Rgb
from training.world import SIDE, Scene, radius_scale, size_of

UNKNOWN: Final = "unknown"

#: A pixel this far from the background, in RGB, belongs to an object.
_FOREGROUND_DISTANCE: Final = 48.0
#: Smaller regions are specks, not objects, in pixels of a 128 × 128 image.
_SMALLEST_OBJECT: Final = 60
#: An object further than this from every palette colour has no colour's name.
_COLOUR_TOLERANCE: Final = 60.0
#: An outline that overlaps less than this with every shape is no shape.
_SHAPE_OVERLAP: Final = 0.8
_TEMPLATE_SIDE: Final = 48


@dataclass(frozen=True)
class Sighting:
    """One object as seen. `x`, `y`, `radius` are in pixels; colour or shape may be `UNKNOWN`."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Reading:
    """What an image shows, largest object first."""

    background: str
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True)
class Verdict:
    """Which of the things asked for the image shows. `relation` is None where none was asked."""

    count: bool
    colour: bool
    shape: bool
    size: bool
    background: bool
    relation: bool | None

    @property
    def everything(self) -> bool:
        """Whether all of it is right but the sizes, which shade into one another."""
        return (
            self.count
            and self.colour
            and self.shape
            and self.background
            and (self.relation is not False)
        )


def read(image: Image.Image) -> Reading:
    """What an image of the world shows; positions are those of a longer side of `SIDE` pixels."""
    scale = SIDE / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    pixels = np.asarray(image.convert("RGB").resize(size), dtype=np.float32)
    ground = np.median(_border(pixels), axis=0)
    objects = np.linalg.norm(pixels - ground, axis=-1) > _FOREGROUND_DISTANCE
    blobs = find_blobs(objects, smallest=_SMALLEST_OBJECT)
    sightings = tuple(_sight(pixels, ground, blob) for blob in blobs)
    return Reading(nearest_colour(ground, BACKGROUND_COLOURS), sightings)


def judge(image: Image.Image, scene: Scene) -> Verdict:
    """Whether the image shows the scene: looks, count, sizes, background and relation.

    Colours, shapes and sizes are compared as multisets, so that an image with the wrong relation
    can still have the right looks. A relation is right only between the right looks.
    """
    reading = read(image)
    seen, asked = reading.sightings, scene.things
    scale = radius_scale(scene.relation, scene.width, scene.height)
    return Verdict(
        count=len(seen) == len(asked),
        colour=Counter(s.colour for s in seen) == Counter(t.colour for t in asked),
        shape=Counter(s.shape for s in seen) == Counter(t.shape for t in asked),
        size=Counter(size_of(s.radius / scale, pair=len(asked) > 1) for s in seen)
        == Counter(t.size for t in asked),
        background=reading.background == scene.background,
        relation=None if scene.relation is None else _shows_relation(seen, scene),
    )


def nearest_colour(pixel: np.ndarray, palette: dict[str, Rgb]) -> str:
    """The palette's name for an RGB value, or `UNKNOWN`."""
    distances = {name: float(np.linalg.norm(pixel - rgb)) for name, rgb in palette.items()}
    name = min(distances, key=lambda candidate: distances[candidate])
    return name if distances[name] <= _COLOUR_TOLERANCE else UNKNOWN


def relation_between(first: tuple[float, float], second: tuple[float, float]) -> str:
    """Where the first point is, seen from the second; the larger distance decides the axis."""
    across, down = first[0] - second[0], first[1] - second[1]
    if abs(down) > abs(across):
        return "above" if down < 0 else "below"
    return "left of" if across < 0 else "right of"


def _border(pixels: np.ndarray) -> np.ndarray:
    """The outermost two rings of pixels: [N, 3]."""
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[2:-2, 2:-2] = True
    return pixels[~inside]


def _sight(pixels: np.ndarray, ground: np.ndarray, blob: Blob) -> Sighting:
    height, width = blob.mask.shape
    box = pixels[blob.top : blob.top + height, blob.left : blob.left + width]
    # The median ignores the edge, where the object's colour is mixed with the background's.
    paint = np.median(box[_core(blob.mask)], axis=0)
    blob = _trimmed(blob, np.linalg.norm(box - ground, axis=-1), np.linalg.norm(paint - ground))
    colour = nearest_colour(paint, OBJECT_COLOURS)
    return Sighting(colour, _shape_of(blob), *blob.centre, blob.radius)


def _trimmed(blob: Blob, distance: np.ndarray, contrast: np.floating) -> Blob:
    """The blob out to where its edge is half object, half background; a soft edge shrinks."""
    inner = find_blobs(blob.mask & (distance > contrast / 2), smallest=1)
    if not inner:
        return blob
    return Blob(inner[0].mask, blob.top + inner[0].top, blob.left + inner[0].left)


def _core(region: np.ndarray) -> np.ndarray:
    """The region without its outermost pixels, or the region where nothing else is left."""
    padded = np.pad(region, 1)
    core = region & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return core if core.any() else region


def _shape_of(blob: Blob) -> str:
    overlaps = {shape: _overlap(blob, shape) for shape in OUTLINES}
    shape = max(overlaps, key=lambda candidate: overlaps[candidate])
    return shape if overlaps[shape] >= _SHAPE_OVERLAP else UNKNOWN


def _overlap(blob: Blob, shape: str) -> float:
    """Intersection over union of the blob and the shape, both stretched to one square box."""
    height, width = blob.mask.shape
    template = _template(shape)
    # Every outline is nearly as wide as it is high; a bar that fills its box is no square.
    if not 0.8 < (width / height) / template.aspect < 1.25:
        return 0.0
    seen = _stretched(blob.mask)
    return float((seen & template.mask).sum() / (seen | template.mask).sum())


@dataclass(frozen=True)
class _Template:
    mask: np.ndarray  # bool [_TEMPLATE_SIDE, _TEMPLATE_SIDE]
    aspect: float


@cache
def _template(shape: str) -> _Template:
    drawn = mask(shape, centre=(64.0, 64.0), radius=60.0, side=128) > 0.5
    (blob,) = find_blobs(drawn, smallest=1)
    height, width = blob.mask.shape
    return _Template(_stretched(blob.mask), width / height)


def _stretched(region: np.ndarray) -> np.ndarray:
    image = Image.fromarray(region.astype(np.uint8) * 255)
    side = (_TEMPLATE_SIDE, _TEMPLATE_SIDE)
    return np.asarray(image.resize(side, Image.Resampling.BILINEAR)) > 127


def _shows_relation(seen: tuple[Sighting, ...], scene: Scene) -> bool:
    if len(seen) != 2:
        return False
    for first, second in (seen, seen[::-1]):
        looks = [(first.colour, first.shape), (second.colour, second.shape)]
        if looks == [thing.look for thing in scene.things]:
            shown = relation_between((first.x, first.y), (second.x, second.y))
            return shown == scene.relation or (
                scene.relation == "beside" and shown in ("left of", "right of")
            )
    return False
