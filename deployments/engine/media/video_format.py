"""What a clip's file is to be like. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

Quality = Literal["low", "medium", "high", "maximum"]
Effort = Literal["fast", "balanced", "small"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
EFFORTS: tuple[Effort, ...] = get_args(Effort)

MOST_GIF_FPS = 50
"""A GIF tells times in hundredths of a second, and browsers take one hundredth for ten."""


@dataclass(frozen=True, slots=True)
class ClipForm:
    """Type, size, pace, and how much is spent on it."""

    media_type: str
    width: int  # pixels; of an MP4 even
    height: int
    fps: Fraction  # frames a second
    num_frames: int
    quality: Quality = "high"
    effort: Effort = "balanced"  # "fast" writes sooner, "small" takes fewer bytes

    @property
    def duration_s(self) -> float:
        return float(self.num_frames / self.fps)


def even(side: int) -> int:
    """H.264 in the form that every player takes halves its colours' sides."""
    return max(2, side - side % 2)
