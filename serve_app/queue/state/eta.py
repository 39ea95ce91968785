"""Expected start and end of requests.

Based on running requests, existing slots, and the times of cold starts (``cold_start.py``),
refreshed once a second.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import floor

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.ports import Clock
from serve_app.domain.progress import BYTE_STAGES, Progress, Stage
from serve_app.domain.request import Request, State
from serve_app.domain.workflows.definition import POOL as WORKFLOWS
from serve_app.postgres.database import Database
from serve_app.queue.fairness.cost_model import CostModel
from serve_app.queue.state.cold_start import ColdStage, ColdStarts
from serve_app.queue.state.positions import QueuePosition
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import progress_of
from serve_app.telemetry.queue_metrics import QueueMeter

# Estimated start of a queued request. Pure.

OVERRUN_FRACTION = 0.1
"""A request that runs longer than expected is assumed to need another tenth of its elapsed time."""

MAX_ROUNDS = 32
"""Requests that a slot runs until the last slot is free. Beyond it an estimate is no closer than
half a request.
"""
PRECISION = 0.001  # of an estimated start, as a share of the time of one request

LONGEST_LEFT_S = 365 * 86400.0
"""Bound of what a request's own rate says: the steps of an app may be any number, and dates end."""

STAGES_BEFORE_GENERATION = frozenset(
    {Stage.FETCHING, Stage.DOWNLOADING, Stage.LOADING, Stage.COMPILING, Stage.WARMING_UP}
)
"""Stages before the expected time begins: weights are nearly always loaded already."""


def remaining_s(expected_s: float, elapsed_s: float, progress: Progress | None = None) -> float:
    """Remaining seconds of a request that began ``elapsed_s`` ago; never 0.

    A download or load lasts as long as its rate says. Other stages before the generation count as
    nothing here: see ``ColdStarts``. A generation lasts at least as long as its own rate says: the
    requests of an app may differ more than their expected time shows.
    """
    left_s = min((progress.left_s or 0.0) if progress is not None else 0.0, LONGEST_LEFT_S)
    if progress is not None and progress.stage in STAGES_BEFORE_GENERATION:
        return expected_s + (left_s if progress.stage in BYTE_STAGES else 0.0)
    return max(expected_s - elapsed_s, OVERRUN_FRACTION * elapsed_s, left_s, 0.001)


class FreeTimes:
    """Seconds until each slot of a pool is free, sorted once for the estimates of many requests.

    An estimate assumes that all requests ahead take the same time.
    """

    def __init__(self, free_in_s: Iterable[float]) -> None:
        self._times = sorted(free_in_s)
        self._sums = [0.0, *accumulate(self._times)]
        # Seconds of work that the slots before each one do until it is free.
        self._filled = [n * time - self._sums[n] for n, time in enumerate(self._times)]

    def __len__(self) -> int:
        return len(self._times)

    def until_start_s(self, ahead: int, ahead_s: float) -> float | None:
        """Seconds until a request starts that has ``ahead`` requests before it.

        Those take ``ahead_s`` seconds of a slot together. None without slots.
        """
        if not self._times:
            return None
        each_s = ahead_s / ahead if ahead else 0.0
        if each_s <= 0.0:
            return self._times[0]
        late = self._filled_at(ahead_s)
        slots = bisect_right(self._times, late)
        # A slot takes no request while another is free earlier, so all are within one request.
        early = max(late - each_s, self._filled_at((ahead + 1 - slots) * each_s))
        if min(late, self._times[-1]) - self._times[0] > MAX_ROUNDS * each_s:
            return (early + late) / 2  # at most half a request away
        while late - early > PRECISION * each_s:
            middle = (early + late) / 2
            if self._started_by(middle, each_s) > ahead:
                late = middle
            else:
                early = middle
        return late

    def _filled_at(self, work_s: float) -> float:
        """Time at which the slots that are free by then have done ``work_s`` seconds of work."""
        slots = max(1, bisect_right(self._filled, max(0.0, work_s)))
        return (max(0.0, work_s) + self._sums[slots]) / slots

    def _started_by(self, time: float, each_s: float) -> int:
        """Number of requests that have started by ``time``, if each takes ``each_s``."""
        rounds = max(0, floor((time - self._times[-1]) / each_s) + 1)  # of all slots
        started = rounds * len(self._times)
        time -= rounds * each_s
        while time >= self._times[0]:
            started += bisect_right(self._times, time)
            time -= each_s
        return started


RUNNING = """
-- name: read_running
SELECT r.pool, r.tenant, r.endpoint, r.work,
       extract(epoch FROM now() - r.started_at)::double precision, r.replica_id,
       p.stage, p.step, p.steps, p.rate
FROM requests r LEFT JOIN progress p ON p.request_id = r.id AND p.attempt = r.attempt
WHERE r.state = 'running' LIMIT 5000
"""
REBUILD_S = 0.1  # shortest age at which free times are dropped because a replica changed
UNKNOWN_S = 60.0
"""Time of a request of an endpoint that is not known, where a pool's size depends on it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A request that occupies a slot."""

    pool: str
    tenant: str
    endpoint: str
    work: float
    elapsed_s: float  # at the time of the refresh
    replica_id: str | None = None
    progress: Progress | None = None


class EtaModel:
    """Expected starts and ends, and limits on running requests, from memory."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        limits: QueueLimits,
        costs: CostModel,
        metrics: QueueMeter,
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._costs = costs
        self._cold = ColdStarts(clock, costs, metrics)
        self._running: dict[str, list[Running]] = {}  # by pool
        self._of_tenant: Counter[str] = Counter()  # running requests
        self._of_endpoint: Counter[str] = Counter()
        self._slots: dict[str, tuple[str, int]] = {}  # ready replica → pool, slots
        self._starting: dict[str, tuple[str, float, int]] = {}  # replica → pool, since when, slots
        self._looked_at = clock.monotonic()
        # by pool, then for all tenants (None) or for one with its limit on running requests
        self._free: dict[str, dict[tuple[str, int] | None, FreeTimes]] = {}
        self._free_since: dict[str, float] = {}  # by pool

    def replica_seen(self, presence: Presence, slots: int = 1) -> None:
        """Note a replica. Its start time is learned when it becomes ready."""
        id_ = presence.replica_id
        before = self._slots.get(id_), self._starting.get(id_)
        self._note(id_, presence, slots)
        if before != (self._slots.get(id_), self._starting.get(id_)):
            self._replicas_changed(self._limits.overflow.queue_of(presence.pool))

    def _note(self, id_: str, presence: Presence, slots: int) -> None:
        pool = presence.pool
        if presence.stage is ReplicaStage.STARTING:
            if id_ not in self._starting:
                self._cold.note_announcement(pool)
            _, since, _ = self._starting.get(id_, (pool, self._clock.monotonic(), 1))
            self._starting[id_] = (pool, since, slots)
            return
        if presence.stage is ReplicaStage.READY:
            if id_ in self._starting:
                took_s = self._clock.monotonic() - self._starting[id_][1]
                self._cold.took(ColdStage.STARTING, pool, took_s)
            self._slots[id_] = (pool, slots)
        else:
            self._slots.pop(id_, None)
        self._starting.pop(id_, None)

    async def refresh(self, present: Sequence[tuple[Presence, int]]) -> None:
        """Read the running requests again. ``present``: all existing replicas with their slots."""
        rows = await self._database.rows(RUNNING)
        running = [
            Running(pool, tenant, endpoint, work, elapsed_s, replica_id, progress_of(*progress))
            for pool, tenant, endpoint, work, elapsed_s, replica_id, *progress in rows
        ]
        by_pool = defaultdict[str, list[Running]](list)
        for request in running:
            by_pool[request.pool].append(request)
        self._running = dict(by_pool)
        self._of_tenant = Counter(run.tenant for run in running if run.pool != WORKFLOWS)
        self._of_endpoint = Counter(run.endpoint for run in running)
        self._free.clear()
        self._looked_at = self._clock.monotonic()
        there = {presence.replica_id for presence, _ in present}
        self._slots = {id_: slot for id_, slot in self._slots.items() if id_ in there}
        self._starting = {id_: start for id_, start in self._starting.items() if id_ in there}
        for presence, slots in present:
            self.replica_seen(presence, slots)
        self._cold.note_loads([presence for presence, _ in present])

    def limit_reached(self, request: Request) -> str:
        """The limit on running requests that holds this request back, in words; empty if there is
        none.
        """
        tenant, endpoint, limits = request.tenant, request.endpoint, self._limits
        if tenant in limits.disabled:
            return f"The tenant {tenant} is disabled."
        most = limits.running_of_tenant(tenant)
        if most is not None and self._of_tenant[tenant] >= most:
            return f"At most {most} of your requests may run at once."
        most = limits.running_of_endpoint(endpoint)
        if most is not None and self._of_endpoint[endpoint] >= most:
            return f"At most {most} requests for {endpoint} may run at once."
        return ""

    def work_s(self, pool: str, requests: Mapping[str, int]) -> float:
        """Seconds of a slot that queued requests take. ``requests``: their number by endpoint.

        Those of an endpoint that is not known count as long ones: each gets a slot of its own.
        """
        return sum(
            n * self._costs.typical_s(endpoint, pool, UNKNOWN_S) for endpoint, n in requests.items()
        )

    def start_progress(self, pool: str) -> float | None:
        """Progress of the pool's first starting replica, from 0 to 1, by the usual time of a start.
        None if none starts.
        """
        shares = [
            self._cold.starting(where, at).share
            for where, at, _ in self._starting.values()
            if self._serves(where, pool)
        ]
        return max(shares, default=None)

    def until_replica(self, request: Request, place: QueuePosition) -> tuple[float, float | None]:
        """Share of the wait for a replica in a pool that has none and gets one, and seconds until
        the request starts there; None if it cannot be estimated."""
        estimate = self._cold.waits(request.pool)
        if place.position and not self._costs.knows_pool(request.pool):
            return estimate.share, None
        free = FreeTimes([estimate.left_s])
        return estimate.share, free.until_start_s(place.position, place.ahead_s)

    def _serves(self, pool: str, queue: str) -> bool:
        return self._limits.overflow.queue_of(pool) == queue

    def until_start_s(self, request: Request, place: QueuePosition) -> float | None:
        """Seconds until the request starts; never negative. None if it cannot be estimated."""
        if not self._costs.knows_pool(request.pool) and (
            place.position
            or any(self._serves(pool, request.pool) for pool, _ in self._slots.values())
        ):
            return None  # the first request starts with the first replica
        tenant, slowed = request.tenant, self._slowdown(request)
        if tenant in self._limits.disabled:
            return None
        most = self._limits.running_of_tenant(tenant) if self.limit_reached(request) else None
        if most is None:
            free = self._free_times(request.pool, None)
            waits_s = free.until_start_s(place.position, place.ahead_s * slowed)
        else:
            free = self._free_times(request.pool, (tenant, most))
            waits_s = free.until_start_s(place.own_ahead, place.own_ahead_s * slowed)
        if waits_s is None:
            return None
        return max(0.0, waits_s - self._age_s())

    def usual_s(self, endpoint: str, pool: str) -> float | None:
        """Mean seconds of an endpoint's requests in a pool. None: none has ended."""
        if not self._costs.knows(endpoint, pool):
            return None
        return self._costs.typical_s(endpoint, pool, UNKNOWN_S)

    def until_end_s(self, request: Request, elapsed_s: float = 0.0) -> float | None:
        """Seconds until the end of a request that has run for ``elapsed_s``. None if its endpoint
        is unknown.
        """
        if not self._costs.knows(request.endpoint, request.pool):
            return None
        runs_in, slowed = request.pool, 1.0
        if request.replica_id is None or request.state is State.QUEUED:
            slowed = self._slowdown(request)
        else:
            runs_in = self._pool_of(request.replica_id, request.pool)
        expected_s = self._costs.expected_s(request.endpoint, runs_in, request.work) * slowed
        progress = request.progress
        if progress is not None and progress.stage in STAGES_BEFORE_GENERATION:
            cold = self._cold.loads(request.replica_id or "", request.endpoint)
            if cold is not None and progress.stage is not Stage.FETCHING:
                return expected_s + cold.left_s
        return remaining_s(expected_s, elapsed_s, progress)

    def _slowdown(self, request: Request) -> float:
        """Time of a request over all slots of its queue, as a multiple of that in the queue's own
        pool: above 1 if overflow pools are slower. Each class of slots counts by what it gets done.
        """
        queue, endpoint = request.pool, request.endpoint
        if not self._limits.overflow.before:
            return 1.0
        base_s = self._costs.typical_s(endpoint, queue, UNKNOWN_S)
        slots = done = 0.0
        for pool, count in self._slots.values():
            if self._serves(pool, queue):
                slots += count
                done += count * base_s / self._costs.typical_s(endpoint, pool, UNKNOWN_S)
        return slots / done if done else 1.0

    def _pool_of(self, replica_id: str | None, queue: str) -> str:
        return self._slots.get(replica_id or "", (queue, 0))[0]

    def _free_times(self, pool: str, limited: tuple[str, int] | None) -> FreeTimes:
        """Free times of the pool's slots, or of those that a tenant at its limit may use."""
        known = self._free.get(pool)
        if known is None:
            known = self._free[pool] = {}
            self._free_since[pool] = self._clock.monotonic()
        times = known.get(limited)
        if times is None:
            running = self._running.get(pool, [])
            if limited is not None:
                running = [run for run in running if run.tenant == limited[0]]
            most = None if limited is None else limited[1]
            times = known[limited] = FreeTimes(self._free_in_s(pool, running, most))
        return times

    def _replicas_changed(self, pool: str) -> None:
        """Drop the pool's free times, unless they are so new that the next refresh is enough."""
        known = self._free.get(pool)
        if known is None:
            return
        age_s = self._clock.monotonic() - self._free_since[pool]
        if age_s >= REBUILD_S or not all(len(times) for times in known.values()):
            del self._free[pool]

    def _free_in_s(self, pool: str, running: Sequence[Running], most: int | None) -> list[float]:
        """Seconds after the last refresh until each slot is free."""
        expected_s = cache(self._costs.expected_s)  # thousands may run, of few endpoints and sizes
        busy = [
            remaining_s(
                expected_s(run.endpoint, self._pool_of(run.replica_id, pool), run.work),
                run.elapsed_s,
                run.progress,
            )
            for run in running
        ]
        slots = sum(count for where, count in self._slots.values() if self._serves(where, pool))
        if most is not None:
            slots = min(slots, most)
        free = [0.0] * max(0, slots - len(busy))
        taken = sorted(busy)[-slots:] if slots else []  # more requests may run than there are slots
        return [*taken, *free, *self._starting_in_s(pool)]

    def _starting_in_s(self, pool: str) -> list[float]:
        """Seconds until each slot of the starting replicas is ready."""
        return [
            remaining_s(self._cold.expected_s(ColdStage.STARTING, where), self._looked_at - at)
            for where, at, slots in self._starting.values()
            if self._serves(where, pool)
            for _ in range(slots)
        ]

    def _age_s(self) -> float:
        return self._clock.monotonic() - self._looked_at
