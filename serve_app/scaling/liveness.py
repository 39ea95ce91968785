"""Which replicas Ray knows to be dead. Serve does not tell; Ray's actor table does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import ray
from ray._private.state import actors


class RayLiveness:
    """The ``Liveness`` port over Ray's actor table.

    With ``sole_cluster`` an actor that the table does not know is dead as well: the embedded
    database belongs to one Ray cluster, so a lease of an unknown actor is one of an earlier run.
    """

    def __init__(self, *, sole_cluster: bool) -> None:
        self._sole_cluster = sole_cluster

    async def dead(self, actor_ids: Sequence[str]) -> frozenset[str]:
        if not ray.is_initialized():
            return frozenset()
        return frozenset(await asyncio.to_thread(self._dead, tuple(actor_ids)))

    def _dead(self, actor_ids: tuple[str, ...]) -> list[str]:
        found: list[str] = []
        for actor_id in actor_ids:
            known = actors(actor_id=actor_id)
            if known.get("State") == "DEAD" or (not known and self._sole_cluster):
                found.append(actor_id)
        return found
