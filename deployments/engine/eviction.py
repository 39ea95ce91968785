"""Which weights have to go so that others fit. Pure: no torch, no threads, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """Weights that are loaded."""

    name: str
    size: int  # bytes
    users: int  # who may be computing with them
    last_used: int  # grows; of the last who gave them back


def idle_to_evict(
    residents: Sequence[Resident], coming: int, budget: int
) -> tuple[Resident, ...] | None:
    """The idle ones that were not used for longest, as many as it takes until ``coming`` bytes fit
    beside the rest; None when only weights in use could make room, and have to be waited for.
    """
    over = sum(resident.size for resident in residents) + coming - budget
    chosen: list[Resident] = []
    idle = sorted((each for each in residents if each.users == 0), key=lambda each: each.last_used)
    for resident in idle:
        if over <= 0:
            break
        chosen.append(resident)
        over -= resident.size
    return tuple(chosen) if over <= 0 else None
