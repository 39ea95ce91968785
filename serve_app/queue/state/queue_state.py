"""Memory of one ingress process about the queue: what its parts share and change."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from serve_app.domain.lease import LeaseTerms
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database
from serve_app.queue.fairness.cost_model import CostModel
from serve_app.queue.fairness.fair_queue import LaneCharges, Lanes, Reordering
from serve_app.queue.fairness.open_snapshots import OpenSnapshots
from serve_app.queue.fairness.pauses import Pauses
from serve_app.queue.fairness.running_limits import RunningLimits
from serve_app.queue.state.canaries import Canaries
from serve_app.queue.state.demand import DemandReader
from serve_app.queue.state.eta import EtaModel
from serve_app.queue.state.positions import Positions
from serve_app.queue.state.prefetch import PrefetchHints
from serve_app.queue.state.quarantines import Quarantines
from serve_app.queue.state.replicas import ReplicaRegistry
from serve_app.queue.state.request_cache import RequestCache
from serve_app.queue.state.stats import QueueStats
from serve_app.queue.state.terms import Terms
from serve_app.queue.state.waiters import Waiters
from serve_app.queue.state.warm import KeptWeightsRegistry
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.notify import Notifier
from serve_app.telemetry.queue_metrics import QueueMeter


class BackgroundTasks:
    """Tasks that no caller waits for. Each handles its own errors."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Wait until all are done."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class QueueState:
    """Objects of which a process has one each. Owned by one event loop."""

    terms: Terms
    quarantines: Quarantines
    canaries: Canaries
    waiters: Waiters
    requests: RequestCache
    stats: QueueStats
    replicas: ReplicaRegistry
    kept_weights: KeptWeightsRegistry
    prefetch: PrefetchHints
    lanes: Lanes
    charges: LaneCharges
    snapshots: OpenSnapshots
    running_limits: RunningLimits
    reordering: Reordering
    costs: CostModel
    eta: EtaModel
    positions: Positions
    pauses: Pauses
    notifier: Notifier
    background: BackgroundTasks

    @classmethod
    def create(
        cls,
        database: Database,
        clock: Clock,
        limits: QueueLimits,
        terms: LeaseTerms,
        ingress_id: str,
        metrics: QueueMeter,
    ) -> QueueState:
        """The state of a process that has just started, which knows nothing yet."""
        requests = RequestCache(database, clock, limits.request_cache_bytes)
        costs = CostModel(database, limits)
        pauses = Pauses(database)
        positions = Positions(database, clock, costs)
        eta = EtaModel(database, clock, limits, costs, metrics)
        canaries = Canaries(database, limits, metrics)
        demand = DemandReader(database, clock, limits, terms, eta, pauses, canaries)
        stats = QueueStats(database, clock, limits, positions, eta, pauses, requests, demand)
        waiters, running_limits = Waiters(clock), RunningLimits(database, limits)
        kept, ended = KeptWeightsRegistry(database, terms), Terms(database)
        return cls(
            terms=ended,
            quarantines=Quarantines(database, ended, clock, metrics),
            canaries=canaries,
            waiters=waiters,
            requests=requests,
            stats=stats,
            replicas=ReplicaRegistry(database, stats, clock, metrics),
            kept_weights=kept,
            prefetch=PrefetchHints(database, limits, terms, stats, running_limits, kept, waiters),
            lanes=Lanes(database, limits),
            charges=LaneCharges(database),
            snapshots=OpenSnapshots(database, clock),
            running_limits=running_limits,
            reordering=Reordering(database, clock),
            costs=costs,
            eta=eta,
            positions=positions,
            pauses=pauses,
            notifier=Notifier(database, ingress_id, clock, metrics),
            background=BackgroundTasks(),
        )
