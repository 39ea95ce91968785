"""Choice of what to evict so that something else fits. Pure: no torch, no threads, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resident(Generic[T]):
    """Weights or a LoRA that are loaded."""

    name: T
    size: int  # bytes
    users: int  # generations that may be computing with it
    last_used: int  # increasing number, set when the last user released it
    evict_last: bool = False  # evicted after all others, and never for a spare load
    needed: bool = False  # by queued requests: never evicted for a spare load


def choose_victims(
    residents: Sequence[Resident[T]], coming: int, budget: int, *, spare: bool = False
) -> tuple[Resident[T], ...] | None:
    """Idle residents to evict, least recently used first, until ``coming`` more bytes fit. Kept
    ones go last, or like needed ones not at all for a ``spare`` load, which no request waits for.

    None when evicting all idle ones is not enough, so that those in use must be waited for.
    """
    over = sum(resident.size for resident in residents) + coming - budget
    chosen: list[Resident[T]] = []
    idle = sorted(
        (
            candidate
            for candidate in residents
            if candidate.users == 0 and not (spare and stays(candidate))
        ),
        key=lambda candidate: (candidate.evict_last, candidate.last_used),
    )
    for resident in idle:
        if over <= 0:
            break
        chosen.append(resident)
        over -= resident.size
    return tuple(chosen) if over <= 0 else None


def stays(resident: Resident[T]) -> bool:
    """Return whether a spare load leaves the resident where it is, also if it is idle."""
    return resident.users > 0 or resident.evict_last or resident.needed
