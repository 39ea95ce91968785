"""What a replica's engine did, told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from serve_app.domain.lease import Computed

_PARTS: Mapping[str, str] = {"encoder": "encoders", "autoencoder": "autoencoders"}


class Tally:
    """The increase of an engine's counts from one report to the next."""

    def __init__(self, counts: Callable[[], Mapping[str, Any]]) -> None:
        """``counts``: as ``Engine.counts``, numbers that only grow."""
        self._counts = counts
        self._told: Mapping[str, Any] = {"steps": 0}

    def take(self) -> Computed:
        """What was done since the last time. A report that is lost takes its part with it: better
        than counted twice."""
        before, now = self._told, self._counts()
        self._told = now
        return Computed(
            steps=now["steps"] - before["steps"],
            forwards=_increase(_by_part(before, "batch_sizes"), _by_part(now, "batch_sizes")),
            not_merged=_increase(_by_part(before, "not_merged"), _by_part(now, "not_merged")),
        )


def _by_part(counts: Mapping[str, Any], name: str) -> Mapping[Any, int]:
    """Denoisers' are at the top."""
    parts = {"denoiser": counts} | {part: counts.get(key, {}) for part, key in _PARTS.items()}
    return {
        (part, key): count
        for part, its in parts.items()
        for key, count in its.get(name, {}).items()
    }


def _increase(before: Mapping[Any, int], now: Mapping[Any, int]) -> Mapping[Any, int]:
    return dict(Counter(now) - Counter(before))
