"""Liveness of replicas, from Ray's actor table. Serve does not report dead replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray._private.state import actors

from serve_app.domain.lease import Death
from serve_app.domain.ports import Clock

SHARED_S = 0.5
"""Age at which an answer of the table is used again: both questions of one round need the same."""


@dataclass(frozen=True, slots=True)
class ActorState:
    """Ray's state of an actor."""

    name: str  # such as ALIVE; empty for an actor that Ray does not know
    death: Death | None = None  # of a dead one


ALIVE, UNKNOWN = ActorState("ALIVE"), ActorState("")

_REASONS: Mapping[str, Death] = {
    "WORKER_DIED": Death("its process ended", by_itself=True),
    "OWNER_DIED": Death("the process that had started it ended", by_itself=False),
    "NODE_DIED": Death("its node failed", by_itself=False),
    "RAY_KILL": Death("the cluster ended it", by_itself=False),
    "OUT_OF_SCOPE": Death("the cluster ended it", by_itself=False),
    "REF_DELETED": Death("the cluster ended it", by_itself=False),
}
"""By ``ActorDiedErrorContext.Reason`` of Ray's ``common.proto``."""

_GIVEN_UP = Death("the cluster gave it up", by_itself=False)


class ActorTable(Protocol):
    """Table of all actors of a Ray cluster. Each call is one round trip and blocks."""

    def is_connected(self) -> bool: ...

    def alive(self) -> frozenset[str]:
        """Ids of the actors that are alive."""
        ...

    def state(self, actor_id: str) -> ActorState: ...


class RayActorTable:
    """The table of the cluster that this process belongs to."""

    def is_connected(self) -> bool:
        return ray.is_initialized()

    def alive(self) -> frozenset[str]:
        return frozenset(actors(actor_state_name="ALIVE"))

    def state(self, actor_id: str) -> ActorState:
        row: Any = actors(actor_id=actor_id)
        name: str = row.get("State", "")
        return ActorState(name, death_of(row["DeathCause"]) if name == "DEAD" else None)


def death_of(cause: Any) -> Death:
    """How an actor died, by Ray's record of it, an ``ActorDeathCause``.

    A worker process that ends, or is ended by Ray for the memory of its node, dies by itself: the
    request that it computed may be the reason. All other causes lie outside of it.
    """
    kind = cause.WhichOneof("context")
    if kind == "oom_context":
        return Death("its node ran out of memory", by_itself=True)
    if kind != "actor_died_error_context":
        return _GIVEN_UP
    context = cause.actor_died_error_context
    reasons = context.DESCRIPTOR.fields_by_name["reason"].enum_type.values_by_number
    return _REASONS.get(reasons[context.reason].name, _GIVEN_UP)


class RayLiveness:
    """Implementation of the ``Liveness`` port over Ray's actor table.

    The living actors are listed in one call. Only those that are not among them are looked up one
    by one: Ray keeps up to 100,000 dead actors, so a list of all would grow with time.

    With ``sole_cluster``, an actor that the table does not know belongs to an earlier run, because
    only one Ray cluster at a time uses the embedded database.
    """

    def __init__(
        self, table: ActorTable, clock: Clock, *, sole_cluster: bool, cluster: str = ""
    ) -> None:
        self.cluster = cluster
        self._table = table
        self._clock = clock
        self._sole_cluster = sole_cluster
        self._known: Mapping[str, ActorState] = {}
        self._known_at = float("-inf")

    async def dead(self, actor_ids: Sequence[str]) -> Mapping[str, Death]:
        states = await self._states(actor_ids)
        return {id_: state.death for id_, state in states.items() if state.death is not None}

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        if not self._sole_cluster:
            return frozenset()
        states = await self._states(actor_ids)
        return frozenset(id_ for id_, state in states.items() if state == UNKNOWN)

    async def _states(self, actor_ids: Sequence[str]) -> Mapping[str, ActorState]:
        """Ray's state of each actor. Empty if this process has no connection to Ray."""
        if not self._table.is_connected():
            return {}
        now = self._clock.monotonic()
        if now - self._known_at > SHARED_S or not self._known.keys() >= {*actor_ids}:
            self._known = await asyncio.to_thread(self._look, tuple(actor_ids))
            self._known_at = now
        return {actor_id: self._known[actor_id] for actor_id in actor_ids}

    def _look(self, actor_ids: Sequence[str]) -> Mapping[str, ActorState]:
        alive = self._table.alive()
        return {id_: ALIVE if id_ in alive else self._table.state(id_) for id_ in actor_ids}
