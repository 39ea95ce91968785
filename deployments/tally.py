"""What a replica's engine did, told once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deployments.recipe import family_in
from serve_app.domain.lease import Computed

_PARTS: Mapping[str, str] = {"encoder": "encoders", "autoencoder": "autoencoders"}


class Tally:
    """The increase of an engine's counts from one report to the next."""

    def __init__(self, counts: Callable[[], Mapping[str, Any]]) -> None:
        """``counts``: as ``Engine.counts``, numbers that only grow; the names of pipelines are
        those of weights."""
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
            seconds=_increase(_by_family(before), _by_family(now)),
        )


def _by_part(counts: Mapping[str, Any], name: str) -> Mapping[Any, int]:
    """Denoisers' are at the top."""
    parts = {"denoiser": counts} | {part: counts.get(key, {}) for part, key in _PARTS.items()}
    return {
        (part, key): count
        for part, its in parts.items()
        for key, count in its.get(name, {}).items()
    }


def _by_family(counts: Mapping[str, Any]) -> Mapping[Any, float]:
    found: dict[tuple[str, str], float] = {}
    for (name, stage), seconds in counts.get("seconds", {}).items():
        key = family_in(name), stage
        found[key] = found.get(key, 0.0) + seconds
    return found


def _increase(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return {key: more for key in now if (more := now[key] - before.get(key, 0)) > 0}
