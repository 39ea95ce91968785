"""Demand of each pool, for its scaling and for the status page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from serve_app.domain.lease import Demand, LeaseTerms
from serve_app.domain.ports import Clock
from serve_app.domain.request import Priority
from serve_app.postgres.database import Database
from serve_app.queue.fairness.pauses import Pauses
from serve_app.queue.state.canaries import Canaries
from serve_app.queue.state.counters import Counters, Excluded
from serve_app.queue.state.eta import EtaModel
from serve_app.queue.store.config import QueueLimits
from serve_app.settings.overflow import OverflowPools

# What runs counts for the pool of its replica, where that is an overflow pool.
READ = """
-- name: demand
WITH running AS (
    SELECT CASE WHEN p.pool = ANY(%(overflow)s::text[]) THEN p.pool ELSE r.pool END AS pool,
           count(*) AS running
    FROM requests r LEFT JOIN replicas p ON p.replica_id = r.replica_id
    WHERE r.state = 'running' GROUP BY 1
),
held AS (SELECT array_agg(node) AS nodes FROM quarantines WHERE released_at IS NULL),
there AS (
    SELECT pool, max(slots) AS slots, max(busy_at) AS busy_at FROM replicas GROUP BY pool
),
quarantined AS (
    SELECT pool, count(*) AS replicas FROM live_replicas CROSS JOIN held
    WHERE stage = 'ready' AND node = ANY (nodes) GROUP BY pool
),
oldest AS (
    SELECT p.pool, min(o.created_at) AS at
    FROM unnest(%(pools)s::text[]) AS p(pool)
    CROSS JOIN unnest(%(priorities)s::smallint[]) AS q(priority)
    CROSS JOIN LATERAL (
        SELECT created_at FROM requests r
        WHERE r.pool = p.pool AND r.priority = q.priority AND r.state = 'queued'
        ORDER BY r.place LIMIT 1) o
    GROUP BY p.pool
)
SELECT pool, coalesce(r.running, 0), coalesce(t.slots, 1),
       coalesce(extract(epoch FROM now() - o.at), 0)::double precision,
       extract(epoch FROM now() - t.busy_at)::double precision,
       CASE WHEN q.replicas > 0 AND has_ready_elsewhere(pool, (SELECT nodes FROM held))
            THEN q.replicas ELSE 0 END
FROM running r FULL JOIN there t USING (pool) FULL JOIN oldest o USING (pool)
LEFT JOIN quarantined q USING (pool)
"""


def halted(pauses: Pauses, limits: QueueLimits) -> Excluded:
    """Queued requests that nothing starts: to paused endpoints, and of disabled tenants. No replica
    is started for them, and others that run only in an idle pool do not wait for them."""
    return Excluded(pauses.paused_endpoints(), limits.disabled)


class DemandReader:
    """Reads the demand, and remembers when each pool was last busy."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        limits: QueueLimits,
        terms: LeaseTerms,
        eta: EtaModel,
        pauses: Pauses,
        canaries: Canaries,
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self._terms = terms
        self._eta = eta
        self._pauses = pauses
        self._canaries = canaries
        self._started = clock.monotonic()
        self._busy_at: dict[str, float] = {}  # by pool

    def note_request(self, pool: str) -> None:
        """Note that a request came for the pool."""
        self._busy_at[pool] = self._clock.monotonic()

    async def read(self, counts: Counters) -> Mapping[str, Demand]:
        """Demand by pool. ``counts``: queued requests.

        An overflow pool has no queue, and its demand says how much of the queue that it takes from
        it may run.
        """
        waiting, overflow = halted(self._pauses, self._limits), self._limits.overflow
        queued = counts.pools(but=waiting)
        rows = await self._database.rows(
            READ,
            {
                "pools": sorted(queued),
                "priorities": [int(priority) for priority in Priority],
                "overflow": sorted(overflow.before),
            },
        )
        self._note_busy(queued, {pool: running for pool, running, *_ in rows})
        demands = {
            pool: Demand(
                queued=queued[pool],
                running=running,
                slots=slots,
                oldest_wait_s=oldest_s,
                idle_s=self._idle_s(pool, quiet_s),
                queued_s=self._eta.work_s(pool, counts.endpoints(pool, waiting)),
                quarantined=quarantined,
            )
            for pool, running, slots, oldest_s, quiet_s, quarantined in rows
        }
        for pool in overflow.before:
            queue = overflow.queue_of(pool)
            for name in (pool, queue):  # one without replicas and queued requests has no row
                demands.setdefault(name, Demand(idle_s=self._idle_s(name, None)))
            fit = self._fit(pool, counts.endpoints(queue, waiting))
            demands[pool] = replace(
                demands[pool],
                overflow_queued=sum(fit.values()),
                overflow_queued_s=self._eta.work_s(pool, fit),
            )
            if canary := self._canaries.get(pool):
                demands[pool] = replace(
                    demands[pool], canary=canary.comparison, returned=canary.returned
                )
        return demands

    def _fit(self, pool: str, queued: Mapping[str, int]) -> Mapping[str, int]:
        """Queued requests that an overflow pool may run, by endpoint."""
        unfit = self._terms.unfit(*self._limits.overflow.fit_of(pool))
        return {endpoint: n for endpoint, n in queued.items() if endpoint not in unfit}

    def _note_busy(self, queued: Counter[str], running: Mapping[str, int]) -> None:
        """A pool is busy while a request of its queue is, wherever that runs."""
        now, overflow = self._clock.monotonic(), self._limits.overflow
        for pool, number in running.items():
            if queued[pool] or number:
                self._busy_at[pool] = now
            if number:
                self._busy_at[overflow.queue_of(pool)] = now

    def _idle_s(self, pool: str, quiet_s: float | None) -> float:
        """Seconds since which the pool is idle. ``quiet_s``: since its replicas had a lease."""
        own_s = self._clock.monotonic() - self._busy_at.get(pool, self._started)
        return max(0.0, own_s if quiet_s is None else min(own_s, quiet_s))


def of_queues(demands: Mapping[str, Demand], overflow: OverflowPools) -> Mapping[str, Demand]:
    """The demand for scaling: what runs in overflow pools counts for the pool of its queue too, as
    that one should run all that it has room for."""
    running = Counter[str]()
    for pool, demand in demands.items():
        running[overflow.queue_of(pool)] += demand.running
    return {
        pool: demand if pool in overflow.before else replace(demand, running=running[pool])
        for pool, demand in demands.items()
    }
