"""The world of the video model: one flat object on a plain background, and what it does.

A `Video` is the ground truth of one video. `sample_video` draws one, `render_array` paints it, and
`UNSEEN` lists what training must never see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.outline import SQUARE, TRIANGLE, mask, turns
from training.palette import BACKGROUND_COLOURS, OBJECT_COLOURS

#: The side of every frame, in pixels, and how many frames a video has at how many a second.
SIDE: Final = 64
FRAMES: Final = 17
FRAMES_PER_SECOND: Final = 16
#: Times `SIDE`: the side of the videos of the shipped model, which goes on from one of `SIDE`.
SHIPPED_SCALE: Final = 2

COLOURS: Final = tuple(OBJECT_COLOURS)
OUTLINES: Final = {"circle": turns(72), "square": SQUARE, "triangle": TRIANGLE}
SHAPES: Final = tuple(OUTLINES)
MOTIONS: Final = ("left", "right", "up", "down", "growing", "shrinking", "still")
BACKGROUNDS: Final = ("white", "gray", "black")
#: The background of a prompt that names none.
DEFAULT_BACKGROUND: Final = "white"

#: Where each motion leads, in parts of the way: x runs right and y down.
DIRECTIONS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

#: What a prompt leaves open hardly varies: a tiny model learns soonest to draw crisply what it
#: asks for. In pixels, as parts of the frame's side would be harder to compare with an image.
_RADII: Final = (11.0, 12.0)
_WAY: Final = (25.0, 27.0)
_STRAY: Final = 2.0
#: The same of a video that goes on from an image: there the image determines everything.
_FREE_RADII: Final = (8.0, 14.0)
_FREE_WAY: Final = (20.0, 26.0)
#: The radius at the small and at the large end of growing and shrinking.
_SMALL: Final = (7.0, 8.0)
_LARGE: Final = (17.0, 18.0)
#: At an image's edge there is at least this much background.
_MARGIN: Final = 2.0


@dataclass(frozen=True)
class Pose:
    """Where an object is and how large: the radius is half its larger side. All in pixels."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Video:
    """One object that goes from one pose to another at a steady pace."""

    colour: str
    shape: str
    motion: str
    background: str
    first: Pose
    last: Pose

    def pose(self, frame: int) -> Pose:
        """The pose in one of `FRAMES` frames."""
        part = frame / (FRAMES - 1)
        first, last = self.first, self.last
        return Pose(
            first.x + part * (last.x - first.x),
            first.y + part * (last.y - first.y),
            first.radius + part * (last.radius - first.radius),
        )


#: One in seven: every colour, shape and motion is in some of them and in most of the others, but
#: these meetings are never shown in training.
UNSEEN: Final = frozenset(
    (colour, shape, motion)
    for i, colour in enumerate(COLOURS)
    for j, shape in enumerate(SHAPES)
    for k, motion in enumerate(MOTIONS)
    if (i + 2 * j + 3 * k) % 7 == 0
)


def is_held_out(video: Video) -> bool:
    """Whether the video belongs to the test split, whatever its background and place."""
    return (video.colour, video.shape, video.motion) in UNSEEN


def sample_video(rng: np.random.Generator, *, free: bool = False, held_out: bool = False) -> Video:
    """A random video of the wanted split.

    Its object starts where such objects start, or `free`, anywhere that leaves it room to move.
    """
    while True:
        motion = MOTIONS[rng.integers(len(MOTIONS))]
        first, last = (_free_poses if free else _usual_poses)(rng, motion)
        video = Video(
            COLOURS[rng.integers(len(COLOURS))],
            SHAPES[rng.integers(len(SHAPES))],
            motion,
            str(rng.choice(BACKGROUNDS, p=[0.5, 0.2, 0.3])),
            first,
            last,
        )
        if is_held_out(video) == held_out:
            return video


def render_array(video: Video, scale: int = 1) -> np.ndarray:
    """The video's frames as float32 [FRAMES, side, side, 3], 0 to 1; ``scale`` times `SIDE`."""
    ground = np.asarray(BACKGROUND_COLOURS[video.background], dtype=np.float32) / 255.0
    colour = np.asarray(OBJECT_COLOURS[video.colour], dtype=np.float32) / 255.0
    cover = masks(video, scale)[..., None]
    return ground * (1.0 - cover) + colour * cover


def masks(video: Video, scale: int = 1) -> np.ndarray:
    """How much of each pixel the object covers: float32 [FRAMES, side, side]."""
    side = SIDE * scale
    poses = [video.pose(frame) for frame in range(FRAMES)]
    return np.stack(
        [
            mask(
                OUTLINES[video.shape],
                centre=(pose.x * scale, pose.y * scale),
                radius=pose.radius * scale,
                box=(0, 0, side, side),
            )
            for pose in poses
        ]
    )


def _usual_poses(rng: np.random.Generator, motion: str) -> tuple[Pose, Pose]:
    middle = SIDE / 2
    x, y = (float(middle + rng.uniform(-_STRAY, _STRAY)) for _ in range(2))
    small, large = float(rng.uniform(*_SMALL)), float(rng.uniform(*_LARGE))
    if motion == "growing":
        return Pose(x, y, small), Pose(x, y, large)
    if motion == "shrinking":
        return Pose(x, y, large), Pose(x, y, small)
    radius = float(rng.uniform(*_RADII))
    across, down = DIRECTIONS.get(motion, (0, 0))
    half = float(rng.uniform(*_WAY)) / 2
    return (
        Pose(x - half * across, y - half * down, radius),
        Pose(x + half * across, y + half * down, radius),
    )


def _free_poses(rng: np.random.Generator, motion: str) -> tuple[Pose, Pose]:
    small, large = float(rng.uniform(*_SMALL)), float(rng.uniform(*_LARGE))
    if motion in ("growing", "shrinking"):
        x, y = (float(_place(rng, large, 0.0)) for _ in range(2))
        ends = Pose(x, y, small), Pose(x, y, large)
        return ends if motion == "growing" else ends[::-1]
    radius = float(rng.uniform(*_FREE_RADII))
    way = float(rng.uniform(*_FREE_WAY))
    across, down = DIRECTIONS.get(motion, (0, 0))
    x, y = _place(rng, radius, way * across), _place(rng, radius, way * down)
    return Pose(x, y, radius), Pose(x + way * across, y + way * down, radius)


def _place(rng: np.random.Generator, radius: float, way: float) -> float:
    """A start that leaves room for the way, which is negative towards left and top."""
    low = radius + _MARGIN + max(0.0, -way)
    return float(rng.uniform(low, SIDE - radius - _MARGIN - max(0.0, way)))
