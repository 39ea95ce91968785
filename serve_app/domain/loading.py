"""What is on its way onto a replica's device, as everybody who waits for it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.domain.progress import Stage

Plain = tuple[Mapping[str, Any], ...]
"""As it crosses: of no class of ours, which the version before might not know."""


@dataclass(frozen=True, slots=True)
class Loading:
    """Weights that a replica brings here."""

    endpoints: tuple[str, ...]  # that it serves with them; the first is the one that it names
    stage: Stage
    done: int = 0  # bytes
    total: int = 0  # bytes; 0: nobody knows how far it is

    @property
    def share(self) -> float | None:
        """Of the stage, by its bytes."""
        return min(1.0, self.done / self.total) if self.total else None


def to_plain(loading: Sequence[Loading]) -> Plain:
    return tuple(
        {
            "endpoints": list(one.endpoints),
            "stage": one.stage.value,
            "done": one.done,
            "total": one.total,
        }
        for one in loading
    )


def of_plain(plain: Sequence[Mapping[str, Any]]) -> tuple[Loading, ...]:
    return tuple(
        Loading(tuple(one["endpoints"]), Stage(one["stage"]), one["done"], one["total"])
        for one in plain
    )


def in_words(loading: Sequence[Loading]) -> str:
    """Such as ``downloading fal-ai/flux/dev, 3.2 of 33.7 GB``; empty: nothing."""
    return "; ".join(map(_one_in_words, loading))


def _one_in_words(one: Loading) -> str:
    words = f"{one.stage.value.replace('_', ' ')} {one.endpoints[0]}"
    if one.stage is not Stage.DOWNLOADING or not one.total:
        return words
    return f"{words}, {one.done / 1e9:.1f} of {one.total / 1e9:.1f} GB"
