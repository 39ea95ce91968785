"""Progress of a running request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from serve_app.domain.serialization import pickle_by_name


class Stage(StrEnum):
    """Stages of a running attempt, in order."""

    FETCHING = "fetching"  # files that the input names
    DOWNLOADING = "downloading"  # weights; steps are bytes
    INSTALLING = "installing"  # the packages of an app
    LOADING = "loading"  # weights; steps are bytes; includes the wait for memory
    COMPILING = "compiling"  # the denoisers' repeated blocks
    WARMING_UP = "warming_up"  # a short first generation, so that users' generations are fast
    RUNNING = "running"  # an app, which says how many steps it has
    WORKING = "working"  # a stage that only another version knows
    ENCODING_TEXT = "encoding_text"
    DENOISING = "denoising"
    DECODING = "decoding"
    ENCODING_MEDIA = "encoding_media"
    UPLOADING = "uploading"

    @classmethod
    def _missing_(cls, value: object) -> Stage:
        """Accept a stage of a newer version, whose reports must be readable during an update."""
        del value
        return cls.WORKING


BYTE_STAGES = frozenset({Stage.DOWNLOADING, Stage.LOADING})
"""Stages whose steps are bytes."""


MAX_STEPS = 2**53
"""Most steps of a stage: JSON numbers are exact until here, and the database has 64 bits."""


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one attempt. Not durable: it may be lost, but is never ahead of the truth."""

    stage: Stage
    step: int = 0  # steps done in the stage; bytes in ``BYTE_STAGES``
    steps: int = 0  # total; 0: not known
    rate: float = 0.0  # recent steps per second, including waits; 0: not known

    def bounded(self) -> Progress:
        """Progress with numbers that can be stored. Apps report any, perhaps from an input."""
        step, steps = min(max(self.step, 0), MAX_STEPS), min(max(self.steps, 0), MAX_STEPS)
        return (
            self
            if (step, steps) == (self.step, self.steps)
            else replace(self, step=step, steps=steps)
        )

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of the stage at the current rate. None if not known."""
        if not self.rate or not self.steps:
            return None
        return max(0, self.steps - self.step) / self.rate

    @property
    def amount(self) -> str:
        """Text such as ``3/28``, or ``3.2/33.7 GB``. Empty if the total is not known."""
        if not self.steps:
            return ""
        if self.stage in BYTE_STAGES:
            return f"{self.step / 1e9:.1f}/{self.steps / 1e9:.1f} GB"
        return f"{self.step}/{self.steps}"


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Preview:
    """Approximate result of a running request after ``step`` steps. May be lost."""

    step: int  # from 1
    image: bytes  # a JPEG of at most 256 pixels per side


PartialPosition = tuple[int, int]
"""Attempt and number of a partial result; ``NOTHING_SEEN`` is before the first."""

NOTHING_SEEN: PartialPosition = (0, -1)

MAX_PARTIAL_BYTES = 4 * 2**20
"""Longest partial result as JSON, with its files."""

MAX_PARTIALS_KEPT_BYTES = 16 * 2**20
MAX_PARTIALS_KEPT = 1000
"""Newest partial results of an attempt that are kept for clients that read late or slowly."""

MAX_PARTIALS_READ = 64


@pickle_by_name
@dataclass(frozen=True, slots=True)
class PartialResult:
    """A value that a generator of an app has yielded."""

    attempt: int
    number: int  # in the attempt, from 0
    value: str  # JSON, with files as data URIs

    @property
    def position(self) -> PartialPosition:
        return self.attempt, self.number


OnDownload = Callable[[int, int], None]
"""Callback with the downloaded bytes and the total."""


# Loading progress of weights onto a replica's device, as shown to waiting users.

Plain = tuple[Mapping[str, Any], ...]
"""Loading progress as plain data, because a previous version might not know our classes."""


@dataclass(frozen=True, slots=True)
class Loading:
    """Weights that a replica is loading."""

    endpoints: tuple[str, ...]  # endpoints that use these weights; texts name the first
    stage: Stage
    done: int = 0  # bytes
    total: int = 0  # bytes; 0: progress unknown
    warm: bool = False  # they come from host memory, not from disk

    @property
    def share(self) -> float | None:
        """Completed share of the stage, by bytes. None if unknown."""
        return min(1.0, self.done / self.total) if self.total else None


def to_plain(loading: Sequence[Loading]) -> Plain:
    return tuple(
        {
            "endpoints": list(entry.endpoints),
            "stage": entry.stage.value,
            "done": entry.done,
            "total": entry.total,
            "warm": entry.warm,
        }
        for entry in loading
    )


def from_plain(plain: Sequence[Mapping[str, Any]]) -> tuple[Loading, ...]:
    return tuple(
        Loading(
            tuple(entry["endpoints"]),
            Stage(entry["stage"]),
            entry["done"],
            entry["total"],
            entry.get("warm", False),  # an older version does not say
        )
        for entry in plain
    )


def describe(loading: Sequence[Loading]) -> str:
    """Description such as ``loading fal-ai/flux/dev from disk, 3.2 of 33.7 GB``. Empty if idle."""
    return "; ".join(map(_one_in_words, loading))


def _one_in_words(loading: Loading) -> str:
    words = f"{loading.stage.value.replace('_', ' ')} {loading.endpoints[0]}"
    if loading.stage is Stage.LOADING:
        words += " from host memory" if loading.warm else " from disk" if loading.total else ""
    if loading.stage not in BYTE_STAGES or not loading.total:
        return words
    return f"{words}, {loading.done / 1e9:.1f} of {loading.total / 1e9:.1f} GB"


# Snapshots of partial generations in storage.


@pickle_by_name
@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """Snapshot of a running attempt, in storage under the key of a ticket issued for it."""

    key: str
    step: int  # number of completed steps
