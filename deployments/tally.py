"""What a replica's engine did, told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from serve_app.domain.lease import Computed

_NOTHING: Mapping[str, Any] = {"steps": 0, "batch_sizes": {}, "not_merged": {}}


class Tally:
    """The increase of an engine's counts from one report to the next."""

    def __init__(self, counts: Callable[[], Mapping[str, Any]]) -> None:
        """``counts``: as ``Engine.counts``, numbers that only grow."""
        self._counts = counts
        self._told = _NOTHING

    def take(self) -> Computed:
        """What was done since the last time. A report that is lost takes its part with it: better
        than counted twice."""
        before, now = self._told, self._counts()
        self._told = now
        return Computed(
            steps=now["steps"] - before["steps"],
            forwards=_increase(before["batch_sizes"], now["batch_sizes"]),
            not_merged=_increase(before["not_merged"], now["not_merged"]),
        )


def _increase(before: Mapping[Any, int], now: Mapping[Any, int]) -> Mapping[Any, int]:
    return dict(Counter(now) - Counter(before))
