"""When requests should start and end: what runs, the slots that there are, and how long replicas
take to start, looked at once a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.ports import Clock
from serve_app.domain.progress import Progress
from serve_app.domain.request import Request
from serve_app.queue.costs import START, Costs
from serve_app.queue.database import Database
from serve_app.queue.estimate import remains_s, until_start_s
from serve_app.queue.limits import QueueLimits
from serve_app.queue.positions import Place
from serve_app.queue.rows import progress_of

RUNNING = """
SELECT r.pool, r.tenant, r.endpoint, r.work,
       extract(epoch FROM now() - r.started_at)::double precision, p.stage, p.step, p.steps, p.rate
FROM requests r LEFT JOIN progress p ON p.request_id = r.id AND p.attempt = r.attempt
WHERE r.state = 'running' LIMIT 5000
"""
MOST_SHARE = 0.99  # of a start that takes longer than expected


@dataclass(frozen=True, slots=True)
class Running:
    """What has a slot."""

    pool: str
    tenant: str
    endpoint: str
    work: float
    elapsed_s: float  # when it was looked at
    progress: Progress | None = None


class Forecast:
    def __init__(self, database: Database, clock: Clock, limits: QueueLimits, costs: Costs) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._costs = costs
        self._running: list[Running] = []
        self._slots: dict[str, tuple[str, int]] = {}  # ready replica → pool, slots
        self._starting: dict[str, tuple[str, float, int]] = {}  # replica → pool, since when, slots
        self._looked_at = clock.monotonic()

    def present(self, presence: Presence, slots: int = 1) -> None:
        """A replica was seen; how long it took to start is learned when it is ready."""
        id_, pool = presence.replica_id, presence.pool
        if presence.stage is ReplicaStage.STARTING:
            _, since, _ = self._starting.get(id_, (pool, self._clock.monotonic(), 1))
            self._starting[id_] = (pool, since, slots)
            return
        if presence.stage is ReplicaStage.READY:
            if id_ in self._starting:
                took_s = self._clock.monotonic() - self._starting[id_][1]
                self._costs.ended(START, pool, 1.0, took_s)
            self._slots[id_] = (pool, slots)
        else:
            self._slots.pop(id_, None)
        self._starting.pop(id_, None)

    async def refresh(self, present: Sequence[tuple[Presence, int]]) -> None:
        """``present``: all replicas that there are, with their slots."""
        rows = await self._database.rows(RUNNING)
        self._running = [Running(*row[:5], progress=progress_of(*row[5:])) for row in rows]
        self._looked_at = self._clock.monotonic()
        there = {presence.replica_id for presence, _ in present}
        self._slots = {id_: each for id_, each in self._slots.items() if id_ in there}
        self._starting = {id_: each for id_, each in self._starting.items() if id_ in there}
        for presence, slots in present:
            self.present(presence, slots)

    def full(self, request: Request) -> str:
        """The limit on what runs that holds it back, in words; empty: none."""
        tenant, endpoint, limits = request.tenant, request.endpoint, self._limits
        most = limits.running_of_tenant(tenant)
        if most is not None and sum(each.tenant == tenant for each in self._running) >= most:
            return f"{most} of your requests may run at once."
        most = limits.running_of_endpoint(endpoint)
        if most is not None and sum(each.endpoint == endpoint for each in self._running) >= most:
            return f"{most} requests for {endpoint} may run at once."
        return ""

    def starting_share(self, pool: str) -> float | None:
        """Of the start of the pool's replica that comes first, by the time that starts take."""
        if not self._costs.knows(START, pool):
            return None
        expected_s = self._costs.expected_s(START, pool, 1.0)
        now = self._clock.monotonic()
        started_at = [at for where, at, _ in self._starting.values() if where == pool]
        shares = [(now - at) / expected_s for at in started_at]
        return min(MOST_SHARE, max(shares)) if shares else None

    def until_start_s(self, request: Request, place: Place) -> float | None:
        """Never negative; None while nobody can tell."""
        if not self._costs.knows_pool(request.pool):
            return None
        ahead, ahead_s, running = place.position, place.ahead_s, self._running
        most = self._limits.running_of_tenant(request.tenant) if self.full(request) else None
        if most is not None:
            ahead, ahead_s = place.own_ahead, place.own_ahead_s
            running = [each for each in running if each.tenant == request.tenant]
        running = [each for each in running if each.pool == request.pool]
        free_in_s = self._free_in_s(request.pool, running, most)
        waits_s = until_start_s(ahead, ahead_s, free_in_s)
        if waits_s is None:
            return None
        return max(0.0, waits_s - self._age_s())

    def until_end_s(self, request: Request, elapsed_s: float = 0.0) -> float | None:
        """Of one that runs since ``elapsed_s``; None while nothing is known of its endpoint."""
        if not self._costs.knows(request.endpoint, request.pool):
            return None
        expected_s = self._costs.expected_s(request.endpoint, request.pool, request.work)
        return remains_s(expected_s, elapsed_s, request.progress)

    def _free_in_s(self, pool: str, running: Sequence[Running], most: int | None) -> list[float]:
        """For each slot, seconds after the last look until it is free."""
        busy = [
            remains_s(
                self._costs.expected_s(each.endpoint, pool, each.work),
                each.elapsed_s,
                each.progress,
            )
            for each in running
        ]
        slots = sum(count for where, count in self._slots.values() if where == pool)
        if most is not None:
            slots = min(slots, most)
        free = [0.0] * max(0, slots - len(busy))
        taken = sorted(busy)[-slots:] if slots else []  # more may run than there are slots
        return [*taken, *free, *self._starting_in_s(pool)]

    def _starting_in_s(self, pool: str) -> list[float]:
        """For each slot of the replicas that start."""
        if not self._costs.knows(START, pool):
            return []
        expected_s = self._costs.expected_s(START, pool, 1.0)
        return [
            remains_s(expected_s, self._looked_at - at)
            for where, at, slots in self._starting.values()
            if where == pool
            for _ in range(slots)
        ]

    def _age_s(self) -> float:
        return self._clock.monotonic() - self._looked_at
