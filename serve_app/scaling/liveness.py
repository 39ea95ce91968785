"""Liveness of replicas, from Ray's actor table. Serve does not report dead replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray._private.state import actors


class RayLiveness:
    """Implementation of the ``Liveness`` port over Ray's actor table.

    With ``sole_cluster``, an actor that the table does not know belongs to an earlier run, because
    only one Ray cluster at a time uses the embedded database.
    """

    def __init__(self, *, sole_cluster: bool) -> None:
        self._sole_cluster = sole_cluster

    async def dead(self, actor_ids: Sequence[str]) -> frozenset[str]:
        if not ray.is_initialized():
            return frozenset()
        states = await asyncio.to_thread(_states, tuple(actor_ids))
        return frozenset(one for one, state in states.items() if state == "DEAD")

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        if not self._sole_cluster or not ray.is_initialized():
            return frozenset()
        states = await asyncio.to_thread(_states, tuple(actor_ids))
        return frozenset(one for one, state in states.items() if state is None)


def _states(actor_ids: tuple[str, ...]) -> dict[str, str | None]:
    """Ray's state of each actor; None for an actor that Ray does not know."""
    known: dict[str, Any] = {one: actors(actor_id=one) for one in actor_ids}
    return {one: record.get("State") for one, record in known.items()}
