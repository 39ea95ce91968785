"""Liveness of replicas, from Ray's actor table. Serve does not report dead replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import ray
from ray._private.state import actors

from serve_app.domain.ports import Clock

SHARED_S = 0.5
"""Age at which an answer of the table is used again: both questions of one round need the same."""


class ActorTable(Protocol):
    """Table of all actors of a Ray cluster. Each call is one round trip and blocks."""

    def connected(self) -> bool: ...

    def alive(self) -> frozenset[str]:
        """Ids of the actors that are alive."""
        ...

    def state(self, actor_id: str) -> str | None:
        """Ray's state of an actor; None for an actor that Ray does not know."""
        ...


class RayActorTable:
    """The table of the cluster that this process belongs to."""

    def connected(self) -> bool:
        return ray.is_initialized()

    def alive(self) -> frozenset[str]:
        return frozenset(actors(actor_state_name="ALIVE"))

    def state(self, actor_id: str) -> str | None:
        state = actors(actor_id=actor_id).get("State")
        return state if isinstance(state, str) else None


class RayLiveness:
    """Implementation of the ``Liveness`` port over Ray's actor table.

    The living actors are listed in one call. Only those that are not among them are looked up one
    by one: Ray keeps up to 100,000 dead actors, so a list of all would grow with time.

    With ``sole_cluster``, an actor that the table does not know belongs to an earlier run, because
    only one Ray cluster at a time uses the embedded database.
    """

    def __init__(self, table: ActorTable, clock: Clock, *, sole_cluster: bool) -> None:
        self._table = table
        self._clock = clock
        self._sole_cluster = sole_cluster
        self._known: Mapping[str, str | None] = {}
        self._known_at = float("-inf")

    async def dead(self, actor_ids: Sequence[str]) -> frozenset[str]:
        states = await self._states(actor_ids)
        return frozenset(one for one, state in states.items() if state == "DEAD")

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        if not self._sole_cluster:
            return frozenset()
        states = await self._states(actor_ids)
        return frozenset(one for one, state in states.items() if state is None)

    async def _states(self, actor_ids: Sequence[str]) -> Mapping[str, str | None]:
        """Ray's state of each actor. Empty if this process has no connection to Ray."""
        if not self._table.connected():
            return {}
        now = self._clock.monotonic()
        if now - self._known_at > SHARED_S or not self._known.keys() >= {*actor_ids}:
            self._known = await asyncio.to_thread(self._look, tuple(actor_ids))
            self._known_at = now
        return {one: self._known[one] for one in actor_ids}

    def _look(self, actor_ids: Sequence[str]) -> Mapping[str, str | None]:
        alive = self._table.alive()
        return {one: "ALIVE" if one in alive else self._table.state(one) for one in actor_ids}
