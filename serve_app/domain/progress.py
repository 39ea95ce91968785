"""How far a running request is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """What a running attempt is doing, in this order."""

    FETCHING = "fetching"  # files that the input names
    LOADING = "loading"
    ENCODING_TEXT = "encoding_text"
    DENOISING = "denoising"
    DECODING = "decoding"
    ENCODING_MEDIA = "encoding_media"
    UPLOADING = "uploading"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one attempt is. Not durable: it may be lost, it is never ahead of the truth."""

    stage: Stage
    step: int = 0  # steps done in the stage
    steps: int = 0  # steps in all; 0: not known
