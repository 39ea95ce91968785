"""Properties of a video file. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

Quality = Literal["low", "medium", "high", "maximum"]
Effort = Literal["fast", "balanced", "small"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
EFFORTS: tuple[Effort, ...] = get_args(Effort)

MAX_GIF_FPS = 50
"""A GIF stores frame times in 1/100 s, and browsers play a time of 1/100 s as 1/10 s."""


@dataclass(frozen=True, slots=True)
class VideoForm:
    """Media type, size, frame rate, quality and encoding effort of a video file."""

    media_type: str
    width: int  # pixels; even for an MP4
    height: int
    fps: Fraction  # frames per second
    num_frames: int
    quality: Quality = "high"
    effort: Effort = "balanced"  # "fast" encodes sooner, "small" makes a smaller file

    @property
    def duration_s(self) -> float:
        return float(self.num_frames / self.fps)


def even(side: int) -> int:
    """Round a side down to an even number: widely supported H.264 halves the chroma planes."""
    return max(2, side - side % 2)
