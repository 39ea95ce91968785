"""Warm targets in force: of the configuration at this hour, and of operators.

Every ingress process looks at them once a second. One of them decides which replica holds what;
the policies learn from the demand how many replicas the targets need.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

from serve_app.catalog.catalog import Catalog
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DarkroomError
from serve_app.domain.operations import Operations, WeightsLevel
from serve_app.domain.ports import Clock
from serve_app.domain.rest import Rest
from serve_app.periodic_task import PeriodicTask
from serve_app.queue.state.warm import HeldWeights, Keep
from serve_app.scaling.warm import Holder, PoolTarget, assign_targets, replicas_for
from serve_app.settings import PoolConfig, overflow_pools
from serve_app.telemetry.queue_metrics import QueueMeter

LOOK_EVERY_S = 1.0
REST_S = 10.0
"""The same at rest. The hour of a target may begin."""
READY = "ready"  # stage of a replica


class HeldStore(Protocol):
    """What the replicas hold and should hold."""

    async def refresh(self, pools: Collection[str]) -> Sequence[HeldWeights]: ...

    async def write(self, keep: Mapping[str, Keep]) -> None: ...


class Leader(Protocol):
    """Leader election among ingress replicas. The real one uses rows with a time limit."""

    async def leads(self, name: str) -> bool: ...


class Pools(Protocol):
    """The configured pools."""

    @property
    def configured(self) -> Mapping[str, PoolConfig]: ...

    def pool_of(self, endpoint: Endpoint, named: str = "") -> str: ...


@dataclass(frozen=True, slots=True)
class TargetState:
    """Warm target in force, and how far it is."""

    endpoint: str  # empty: only replicas
    pool: str
    replicas: int
    level: WeightsLevel
    source: Literal["operator", "configuration"]
    until: datetime | None = None
    ready: int = 0  # ready replicas of the pool that hold the weights at its level
    problems: tuple[str, ...] = ()

    @property
    def target(self) -> PoolTarget:
        return PoolTarget(self.endpoint, self.replicas, self.level)


class WarmPools:
    """Task that follows the warm targets. Use on one event loop."""

    def __init__(
        self,
        operations: Operations,
        held_store: HeldStore,
        pools: Callable[[], Pools],
        catalog: Catalog,
        clock: Clock,
        leader: Leader,
        metrics: QueueMeter | None = None,
    ) -> None:
        self._operations = operations
        self._held = held_store
        self._pools = pools
        self._catalog = catalog
        self._clock = clock
        self._leader = leader
        self._metrics = metrics
        self._states: Sequence[TargetState] = ()
        self._lock = asyncio.Lock()
        self._rounds = PeriodicTask(LOOK_EVERY_S, {"warm": self.look}, metrics, REST_S)

    def start(self, rest: Rest | None = None) -> None:
        self._rounds.start(rest)

    async def aclose(self) -> None:
        await self._rounds.aclose()

    @property
    def states(self) -> Sequence[TargetState]:
        """Targets in force, as of the last look."""
        return self._states

    def of_operator(self, endpoint: str) -> TargetState | None:
        """The operator's target of an endpoint, as of the last look."""
        named = (state for state in self._states if state.endpoint == endpoint)
        return next((state for state in named if state.source == "operator"), None)

    def replicas(self) -> Mapping[str, int]:
        """Replicas that the targets need, by pool."""
        return {
            pool: replicas_for(state.target for state in states)
            for pool, states in self._by_pool(self._states).items()
        }

    async def look(self) -> None:
        """Read the targets and what replicas hold, and decide what they should hold if this process
        leads."""
        async with self._lock:
            targets = await self._in_force()
            by_pool = self._by_pool(target for target in targets if target.endpoint)
            replicas = await self._held.refresh(by_pool)
            of_pool: defaultdict[str, list[HeldWeights]] = defaultdict(list)
            for replica in replicas:
                of_pool[replica.pool].append(replica)
            self._states = [_with_replicas(target, of_pool[target.pool]) for target in targets]
            self._record()
            changed = _keep_changes(by_pool, of_pool)
            if changed and await self._leader.leads("warm"):
                await self._held.write(changed)
                await self._held.refresh(by_pool)

    async def _in_force(self) -> Sequence[TargetState]:
        now, pools = self._clock.now(), self._pools()
        states = [
            TargetState(warm.endpoint, name, warm.replicas, warm.level, "configuration")
            for name, pool in pools.configured.items()
            for warm in pool.warm
            if warm.is_in_force(now)
        ]
        states = [item if not item.endpoint else self._assign_pool(item, pools) for item in states]
        for target in await self._operations.warm_targets():
            state = TargetState(
                target.endpoint, "", target.replicas, target.level, "operator", target.until
            )
            states.append(self._assign_pool(state, pools))
        return states

    def _assign_pool(self, target: TargetState, pools: Pools) -> TargetState:
        """The target in its pool, or with the reason why it has no effect."""
        entry = self._catalog.find_any(target.endpoint)
        if entry is None:
            return _without_effect(target, f"The catalogue has no endpoint {target.endpoint}.")
        try:
            base = self._catalog.find(entry.base) if entry.base else None
            pool = pools.pool_of((base or entry).endpoint, entry.pool)
        except DarkroomError as error:
            return _without_effect(target, error.message)
        if target.pool and overflow_pools(pools.configured).queue_of(target.pool) == pool:
            pool = target.pool  # which takes the overflow of it
        if target.pool not in ("", pool):
            problem = f"{target.endpoint} runs in the pool {pool}, not in {target.pool}."
            return _without_effect(target, problem)
        config = pools.configured.get(pool)
        if config is not None and target.replicas > config.max_replicas:
            problem = (
                f"The pool {pool} has at most {config.max_replicas} replicas (max_replicas), so "
                f"{target.replicas} cannot hold {target.endpoint}."
            )
            return replace(target, pool=pool, problems=(problem,))
        return replace(target, pool=pool)

    @staticmethod
    def _by_pool(states: Iterable[TargetState]) -> Mapping[str, Sequence[TargetState]]:
        by_pool: defaultdict[str, list[TargetState]] = defaultdict(list)
        for state in states:
            if state.pool:
                by_pool[state.pool].append(state)
        return by_pool

    def _record(self) -> None:
        if self._metrics is not None:
            named = [state for state in self._states if state.endpoint and state.pool]
            self._metrics.warm_targets(
                {(state.pool, state.endpoint): (state.replicas, state.ready) for state in named}
            )


def _without_effect(target: TargetState, problem: str) -> TargetState:
    return replace(target, pool="", problems=(problem,))


def _with_replicas(target: TargetState, replicas: Sequence[HeldWeights]) -> TargetState:
    """The target with the replicas that fulfil it, and what keeps others from it."""
    if not target.pool:
        return target
    ready = [replica for replica in replicas if replica.stage == READY]
    name = target.endpoint
    problems = [
        f"{replica.replica_id}: {replica.not_kept[name]}"
        for replica in replicas
        if name in replica.not_kept and any(name == kept for kept, _ in replica.keep or ())
    ]
    count = sum(not name or _holder(replica).holds(name, target.level) for replica in ready)
    return replace(target, ready=count, problems=(*target.problems, *problems))


def _keep_changes(
    by_pool: Mapping[str, Sequence[TargetState]], pool_replicas: Mapping[str, Sequence[HeldWeights]]
) -> Mapping[str, Keep]:
    """What replicas should hold from now on, where it differs from before."""
    changed: dict[str, Keep] = {}
    for pool, replicas in pool_replicas.items():
        states = by_pool.get(pool, ())
        keep = assign_targets(
            [state.target for state in states], [_holder(holder) for holder in replicas]
        )
        for replica in replicas:
            before = replica.keep if states else replica.keep or ()
            if before != keep[replica.replica_id]:
                changed[replica.replica_id] = keep[replica.replica_id]
    return changed


def _holder(replica: HeldWeights) -> Holder:
    return Holder(
        replica.replica_id,
        replica.hot,
        replica.host,
        replica.disk,
        replica.keep or (),
        frozenset(replica.not_kept),
    )
