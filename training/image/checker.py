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
from training.image.outline import OUTLINES, cover
from training.image.world import COLOURS, SIDE, SIZES, Composition, usual_radius
from training.palette import BACKGROUND_COLOURS, Rgb

UNKNOWN: Final = "unknown"

#: A pixel this far from the background, in RGB, belongs to an object or to a speck.
_FOREGROUND_DISTANCE: Final = 48.0
#: Smaller regions are specks, not objects, in pixels of an image with a longer side of `SIDE`.
_SMALLEST_OBJECT: Final = 160
#: More foreground pixels than this outside the objects are visible.
_MOST_STRAY_PIXELS: Final = 12
#: An object further than this from every palette colour has no colour's name.
_COLOUR_TOLERANCE: Final = 60.0
#: An outline that overlaps less than this with every shape is no shape.
_SHAPE_OVERLAP: Final = 0.82
_TEMPLATE_SIDE: Final = 96

_OBJECT_COLOURS: Final = {name: BACKGROUND_COLOURS[name] for name in COLOURS}


@dataclass(frozen=True)
class Sight:
    """One object as seen. Lengths are in pixels; colour or shape may be `UNKNOWN`."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def look(self) -> tuple[str, str]:
        return self.colour, self.shape


@dataclass(frozen=True)
class Reading:
    """What an image shows, largest object first, and how many pixels are neither object nor
    background."""

    background: str
    sights: tuple[Sight, ...]
    stray_pixels: int


@dataclass(frozen=True)
class Verdict:
    """Which of the things asked for the image shows. `relation` is None where none was asked."""

    count: bool
    colour: bool
    shape: bool
    size: bool
    background: bool
    relation: bool | None
    clean: bool

    @property
    def everything(self) -> bool:
        """Whether all is right but the sizes, which shade into one another."""
        right = self.count and self.colour and self.shape and self.background and self.clean
        return right and self.relation is not False


def read(image: Image.Image) -> Reading:
    """What an image of the world shows; lengths are those of a longer side of `SIDE` pixels."""
    scale = SIDE / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    pixels = np.asarray(image.convert("RGB").resize(size), dtype=np.float32)
    ground = np.median(_border(pixels), axis=0)
    foreground = np.linalg.norm(pixels - ground, axis=-1) > _FOREGROUND_DISTANCE
    blobs = find_blobs(foreground, smallest=_SMALLEST_OBJECT)
    return Reading(
        nearest_colour(ground, BACKGROUND_COLOURS),
        tuple(_sight(pixels, ground, blob) for blob in blobs),
        int(foreground.sum()) - sum(blob.area for blob in blobs),
    )


def judge(image: Image.Image, asked: Composition) -> Verdict:
    """Whether the image shows the composition.

    Colours, shapes and sizes are compared as multisets, so that an image with the wrong relation
    can still have the right looks. A relation is right only between the right looks.
    """
    reading = read(image)
    seen = reading.sights
    return Verdict(
        count=len(seen) == len(asked.items),
        colour=Counter(item.colour for item in seen)
        == Counter(item.colour for item in asked.items),
        shape=Counter(item.shape for item in seen) == Counter(item.shape for item in asked.items),
        size=Counter(_size_of(item, asked) for item in seen)
        == Counter(item.size for item in asked.items),
        background=reading.background == asked.background,
        relation=_shows_relations(seen, asked) if asked.relations else None,
        clean=reading.stray_pixels <= _MOST_STRAY_PIXELS,
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


def _size_of(sight: Sight, asked: Composition) -> str:
    return min(SIZES, key=lambda size: abs(usual_radius(size, asked) - sight.radius))


def _border(pixels: np.ndarray) -> np.ndarray:
    """The outermost three rings of pixels: [N, 3]."""
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[3:-3, 3:-3] = True
    return pixels[~inside]


def _sight(pixels: np.ndarray, ground: np.ndarray, blob: Blob) -> Sight:
    height, width = blob.mask.shape
    box = pixels[blob.top : blob.top + height, blob.left : blob.left + width]
    # The median ignores the edge, where the object's colour is mixed with the background's.
    paint = np.median(box[_core(blob.mask)], axis=0)
    blob = _trimmed(blob, np.linalg.norm(box - ground, axis=-1), np.linalg.norm(paint - ground))
    return Sight(nearest_colour(paint, _OBJECT_COLOURS), _shape_of(blob), *blob.centre, blob.radius)


def _trimmed(blob: Blob, distance: np.ndarray, contrast: np.floating) -> Blob:
    """The blob out to where its edge is half object, half background; a soft edge shrinks."""
    inner = find_blobs(blob.mask & (distance > contrast / 2), smallest=1)
    if not inner:
        return blob
    return Blob(inner[0].mask, blob.top + inner[0].top, blob.left + inner[0].left)


def _core(region: np.ndarray) -> np.ndarray:
    """The region without its outermost two pixels, or the region where nothing else is left."""
    core = region
    for _ in range(2):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return core if core.any() else region


def _shape_of(blob: Blob) -> str:
    overlaps = {shape: _overlap(blob, shape) for shape in OUTLINES}
    shape = max(overlaps, key=lambda candidate: overlaps[candidate])
    return shape if overlaps[shape] >= _SHAPE_OVERLAP else UNKNOWN


def _overlap(blob: Blob, shape: str) -> float:
    """Intersection over union of the blob and the shape, with the same centroid and area.

    Their boxes would say less: a star whose points are a little round has a smaller one.
    """
    seen, template = _centred(blob.mask), _template(shape)
    return float((seen & template).sum() / (seen | template).sum())


@cache
def _template(shape: str) -> np.ndarray:
    drawn = cover(shape, centre=(128.0, 128.0), radius=120.0, width=256, height=256) > 0.5
    (blob,) = find_blobs(drawn, smallest=1)
    return _centred(blob.mask)


def _centred(region: np.ndarray) -> np.ndarray:
    """The region with its centroid in the middle of a square, and a sixth of it in area: bool
    [_TEMPLATE_SIDE] * 2."""
    rows, columns = np.nonzero(region)
    scale = float(np.sqrt(len(rows) / (_TEMPLATE_SIDE**2 / 6)))
    middle = _TEMPLATE_SIDE / 2
    left = columns.mean() + 0.5 - middle * scale
    top = rows.mean() + 0.5 - middle * scale
    moved = Image.fromarray(region.astype(np.uint8) * np.uint8(255)).transform(
        (_TEMPLATE_SIDE,) * 2,
        Image.Transform.AFFINE,
        (scale, 0.0, left, 0.0, scale, top),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(moved) > 127


def _shows_relations(seen: tuple[Sight, ...], asked: Composition) -> bool:
    places = {sight.look: (sight.x, sight.y) for sight in seen}
    looks = [item.look for item in asked.items]
    if len(seen) != len(looks) or set(places) != set(looks):
        return False
    return all(
        _holds(relation.name, places[looks[relation.first]], places[looks[relation.second]])
        for relation in asked.relations
    )


def _holds(name: str, first: tuple[float, float], second: tuple[float, float]) -> bool:
    return relation_between(first, second) == ("left of" if name == "beside" else name)
