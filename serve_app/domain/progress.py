"""How far a running request is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from serve_app.domain.by_name import by_name


class Stage(StrEnum):
    """What a running attempt is doing, in this order."""

    FETCHING = "fetching"  # files that the input names
    DOWNLOADING = "downloading"  # weights; its steps are bytes
    LOADING = "loading"  # weights, from disk; also waiting for room for them
    COMPILING = "compiling"  # what its denoisers repeat
    WARMING_UP = "warming_up"  # a first short generation, which is slow for all that follow
    WORKING = "working"  # at what only another version has a word for
    ENCODING_TEXT = "encoding_text"
    DENOISING = "denoising"
    DECODING = "decoding"
    ENCODING_MEDIA = "encoding_media"
    UPLOADING = "uploading"

    @classmethod
    def _missing_(cls, value: object) -> Stage:
        """Of a newer version, during an update: its reports have to be read."""
        del value
        return cls.WORKING


@by_name
@dataclass(frozen=True, slots=True)
class Progress:
    """Where one attempt is. Not durable: it may be lost, it is never ahead of the truth."""

    stage: Stage
    step: int = 0  # steps done in the stage; of DOWNLOADING: bytes
    steps: int = 0  # steps in all; 0: not known
    rate: float = 0.0  # steps a second of late, waiting included; 0: not known

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of the stage, if it goes on so; None: not known."""
        if not self.rate or not self.steps:
            return None
        return max(0, self.steps - self.step) / self.rate


@by_name
@dataclass(frozen=True, slots=True)
class Preview:
    """What a request will look like, as far as can be told after so many steps. May be lost."""

    step: int  # from 1
    picture: bytes  # a JPEG of at most 256 pixels a side


OnDownload = Callable[[int, int], None]
"""Told the bytes that are there, and those that there will be."""
