"""Liveness of the processes that run requests, as the cluster sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Death:
    """End of an actor, as the cluster says it."""

    reason: str  # a clause, such as "its node failed"
    by_itself: (
        bool  # its process died, and no other cause is known: what it computed may have done it
    )


class Liveness(Protocol):
    """Detection of dead processes. Real: Ray's actor table."""

    async def dead(self, actor_ids: Sequence[str]) -> Mapping[str, Death]:
        """Actors that the cluster has given up, also if their processes live on. Unknown actors are
        not included."""
        ...

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        """Actors of a previous run of the whole installation. It was stopped or killed under them,
        so their requests did not fail."""
        ...
