"""How long the device computes for whom, lap by lap.

The engine's thread runs ahead of a GPU, so there its own time says little: marks go into the
device's stream, and are read once the device has passed them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch


class Mark(Protocol):
    """A moment."""

    def passed(self) -> bool: ...

    def seconds_to(self, later: Any, /) -> float:
        """To another of its kind, once both are passed."""
        ...


class HostMark:
    """By any clock that counts seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._at = monotonic()

    def passed(self) -> bool:
        return True

    def seconds_to(self, later: HostMark, /) -> float:
        return later._at - self._at


class StreamMark:
    """When a GPU has done what it was given before."""

    def __init__(self, device: str) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(torch.device(device)))

    def passed(self) -> bool:
        return self._event.query()

    def seconds_to(self, later: StreamMark, /) -> float:
        return self._event.elapsed_time(later._event) / 1e3


def marks_on(device: str, monotonic: Callable[[], float]) -> Callable[[], Mark]:
    """What makes those for ``device``; ``monotonic`` is for a CPU."""
    if device.startswith("cuda"):
        return partial(StreamMark, device)
    return partial(HostMark, monotonic)


class Stopwatch:
    """For one thread."""

    def __init__(self, mark: Callable[[], Mark], add: Callable[[Any, float], object]) -> None:
        """``add`` gets a lap's seconds once the device has passed its end, which is looked at when
        another lap begins or ends."""
        self._mark = mark
        self._add = add
        self._since: Mark | None = None
        self._laps: deque[tuple[Any, Mark, Mark]] = deque()

    def start(self) -> None:
        """A lap begins; what was since the last one is nobody's."""
        self._tell()
        self._since = self._mark()

    def lap(self, of: Any) -> None:
        """It was ``of``; the next one begins."""
        now = self._mark()
        if self._since is not None:
            self._laps.append((of, self._since, now))
        self._since = now
        self._tell()

    def _tell(self) -> None:
        while self._laps and self._laps[0][2].passed():
            of, began, ended = self._laps.popleft()
            self._add(of, began.seconds_to(ended))
