"""Judges a video by its pixels alone: what is in it and where it goes.

It knows the world's palette and outlines and nothing of any model. Motion is read off the object's
area and centroid in the frames at either end, whatever the object is; colour and shape are what
most of a few frames show to the checker of larger images, which bears rounded corners.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from training.image.checker import UNKNOWN, read
from training.video.world import Video

#: A pixel this far from the background, in RGB, belongs to an object.
_FOREGROUND_DISTANCE: Final = 60.0
#: A centroid that has moved less than this, as a part of the side, stands still.
_LEAST_WAY: Final = 0.12
#: It may stray by this part of its way to the side.
_MOST_ASIDE: Final = 0.5
#: An area that has changed by less than this factor has not changed.
_LEAST_GROWTH: Final = 1.8
#: An object of fewer pixels, as a part of all, is a speck.
_LEAST_AREA: Final = 0.005
#: How many frames at either end are averaged.
_END_FRAMES: Final = 2
#: Frames that are looked at for colour and shape.
_LOOKS: Final = 5


@dataclass(frozen=True)
class Sighting:
    """What a video shows; each may be `UNKNOWN`."""

    colour: str
    shape: str
    motion: str
    background: str


@dataclass(frozen=True)
class Verdict:
    """Which of the things asked for the video shows."""

    colour: bool
    shape: bool
    motion: bool
    background: bool

    @property
    def everything(self) -> bool:
        return self.colour and self.shape and self.motion and self.background


def judge(frames: np.ndarray, video: Video) -> Verdict:
    """Whether the frames, uint8 [T, H, W, 3], show what the video is."""
    seen = sight(frames)
    return Verdict(
        seen.colour == video.colour,
        seen.shape == video.shape,
        seen.motion == video.motion,
        seen.background == video.background,
    )


def sight(frames: np.ndarray) -> Sighting:
    """What the frames, uint8 [T, H, W, 3], show."""
    chosen = np.linspace(0, len(frames) - 1, _LOOKS).astype(int)
    colour, shape, ground = (
        Counter(votes).most_common(1)[0][0]
        for votes in zip(*(_look(frame) for frame in frames[chosen]), strict=True)
    )
    return Sighting(colour, shape, motion_of(frames), ground)


def motion_of(frames: np.ndarray) -> str:
    """The motion's name, or `UNKNOWN` where an object is lost or goes astray."""
    side = frames.shape[2]
    first, last = (
        np.mean([_outline(frame) for frame in end], axis=0)
        for end in (frames[:_END_FRAMES], frames[-_END_FRAMES:])
    )
    areas = np.array([first[0], last[0]]) / frames[0, ..., 0].size
    if not (areas > _LEAST_AREA).all():
        return UNKNOWN
    across, down = (last[1:] - first[1:]) / side
    way, aside = max(abs(across), abs(down)), min(abs(across), abs(down))
    if way >= _LEAST_WAY:
        if aside > _MOST_ASIDE * way:
            return UNKNOWN
        if abs(across) > abs(down):
            return "right" if across > 0 else "left"
        return "down" if down > 0 else "up"
    growth = areas[1] / areas[0]
    if growth >= _LEAST_GROWTH:
        return "growing"
    return "shrinking" if growth <= 1 / _LEAST_GROWTH else "still"


def _outline(frame: np.ndarray) -> np.ndarray:
    """The foreground's area in pixels, and its centroid's x and y; all 0 where there is none."""
    pixels = frame.astype(np.float32)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    distances = np.linalg.norm(pixels - np.median(edge, axis=0), axis=-1)
    rows, columns = np.nonzero(distances > _FOREGROUND_DISTANCE)
    if len(rows) == 0:
        return np.zeros(3)
    return np.array([len(rows), columns.mean(), rows.mean()])


def _look(frame: np.ndarray) -> tuple[str, str, str]:
    """Colour and shape of the largest object, and the background's colour."""
    reading = read(Image.fromarray(frame))
    if not reading.sights:
        return UNKNOWN, UNKNOWN, reading.background
    return reading.sights[0].colour, reading.sights[0].shape, reading.background
