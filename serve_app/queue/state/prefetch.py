"""Weights that busy replicas will probably need next, by the front of the queue.

Every ingress process reads the same rows once a second and decides by the same function, so they
agree without a leader. Each passes the decision on to the replicas that poll it. It is advice: the
leasing does not depend on it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Any

from serve_app.domain.lease import LeaseTerms
from serve_app.domain.progress import from_plain
from serve_app.postgres.database import Database
from serve_app.queue.fairness.fair_queue import LOOK_AHEAD
from serve_app.queue.fairness.pauses import PAUSED, not_paused
from serve_app.queue.fairness.running_limits import RunningLimits
from serve_app.queue.state.stats import QueueStats
from serve_app.queue.state.waiters import Waiters
from serve_app.queue.state.warm import KeptWeightsRegistry
from serve_app.queue.store.config import QueueLimits

# Which replica loads what. Pure.

ROUNDS = 2
"""Requests that count as next, as a multiple of the pool's slots: what runs when the slots have
become free so often."""
MAX_LOADS = 2
"""Endpoints whose weights a replica is to load beforehand at most."""


@dataclass(frozen=True, slots=True)
class ReplicaWeights:
    """Ready replica, and the endpoints whose weights it has, by its last poll."""

    replica_id: str
    slots: int
    hot: frozenset[str] = frozenset()
    host: frozenset[str] = frozenset()
    loading: frozenset[str] = frozenset()
    not_kept: frozenset[str] = frozenset()  # what it has no room for, or does not run

    def has(self, endpoint: str) -> bool:
        """True if the weights are on its device, or on the way to it."""
        return endpoint in self.hot or endpoint in self.loading


def upcoming(
    front: Sequence[str], replicas: Sequence[ReplicaWeights]
) -> Mapping[str, tuple[str, ...]]:
    """Endpoints that each replica will probably run next, by its id, the first ones first.

    ``front``: endpoints of the queued requests of a pool, in their order. An endpoint gets as many
    replicas as its requests fill at once, those that have its weights included. The others are
    those with the weights in host memory, then those with the least to load. A replica that has
    nothing to load beforehand gets nothing.
    """
    slots = sum(worker.slots for worker in replicas)
    requests = Counter(front[: ROUNDS * slots])
    assigned: defaultdict[str, list[str]] = defaultdict(list)
    for endpoint, number in requests.items():  # in the order of the queue
        needed = ceil(number * len(replicas) / slots) - sum(
            worker.has(endpoint) for worker in replicas
        )

        def order(replica: ReplicaWeights, endpoint: str = endpoint) -> tuple[object, ...]:
            loads = len(assigned[replica.replica_id])
            return endpoint not in replica.host, loads, _spread(replica.replica_id, endpoint)

        able = [
            worker
            for worker in replicas
            if not worker.has(endpoint)
            and endpoint not in worker.not_kept
            and len(assigned[worker.replica_id]) < MAX_LOADS
        ]
        for chosen in sorted(able, key=order)[: max(0, needed)]:
            assigned[chosen.replica_id].append(endpoint)
    return {
        worker.replica_id: tuple(
            endpoint
            for endpoint in requests
            if worker.has(endpoint) or endpoint in assigned[worker.replica_id]
        )
        for worker in replicas
        if assigned[worker.replica_id] or worker.loading.intersection(requests)
    }


def _spread(replica_id: str, endpoint: str) -> bytes:
    """Rank of a replica among those that are alike: another one for each endpoint."""
    return blake2b(f"{replica_id} {endpoint}".encode(), digest_size=8).digest()


# Requests that wait for a second: others are probably being leased. The order is nearly that of
# lease_sql.py, of the lanes that have received least. One that fell back counts for the limit of
# its own endpoint, and needs the weights of the other one.

LANES = 16
FRONT = f"""
-- name: read_front
WITH paused AS MATERIALIZED (SELECT {PAUSED} AS names)
SELECT p.pool, l.tenant, q.endpoint, q.runs_at
FROM unnest(%(pools)s::text[]) AS p(pool)
CROSS JOIN LATERAL (
    SELECT tenant, vtime, weight FROM fair_lanes
    WHERE pool = p.pool AND active ORDER BY vtime, woken_at LIMIT {LANES}) l
CROSS JOIN LATERAL (
    SELECT r.endpoint, coalesce(r.fell_back_to, r.endpoint) AS runs_at, r.created_at, r.place,
           coalesce(sum(r.expected_s) OVER (
               ORDER BY r.ranked_at, r.place
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before_s
    FROM (
        SELECT endpoint, fell_back_to, created_at, place, ranked_at, expected_s FROM requests r
        WHERE r.pool = p.pool AND r.tenant = l.tenant AND r.state = 'queued'
          AND {not_paused("(SELECT names FROM paused)")}
        ORDER BY r.ranked_at, r.place LIMIT {LOOK_AHEAD}) r) q
WHERE q.created_at < now() - interval '1 s'
ORDER BY p.pool, l.vtime + q.before_s / l.weight, q.place
"""
READY = """
-- name: read_ready_weights
SELECT replica_id, pool, slots, hot, warm, loading, not_kept FROM live_replicas
WHERE stage = 'ready' AND pool = ANY(%(pools)s::text[])
ORDER BY replica_id
"""


class PrefetchHints:
    """Task that decides what the replicas will probably run next. Use on one event loop."""

    def __init__(
        self,
        database: Database,
        limits: QueueLimits,
        terms: LeaseTerms,
        stats: QueueStats,
        running_limits: RunningLimits,
        kept: KeptWeightsRegistry,
        waiters: Waiters,
    ) -> None:
        self._database = database
        self._limits = limits
        self._terms = terms
        self._stats = stats
        self._running_limits = running_limits
        self._kept = kept
        self._waiters = waiters
        self.decided: Mapping[str, Sequence[str]] = {}
        """Endpoints that replicas will run next, by the id of the replica, as of the last look."""

    async def look(self) -> None:
        """Decide again, and tell the replicas that poll without a free slot."""
        before = {id_: self._kept.upcoming(id_) for id_ in self.decided}
        self.decided = await self._decide()
        self._kept.decide_upcoming(self.decided)
        changed = {id_ for id_ in self.decided if self._kept.upcoming(id_) != before.get(id_)}
        self._waiters.end_full_polls(
            lambda ask: (
                ask.replica_id in changed
                and ask.upcoming is not None
                and ask.upcoming != self._kept.upcoming(ask.replica_id)[1]
            )
        )

    async def _decide(self) -> Mapping[str, Sequence[str]]:
        overflow = self._limits.overflow
        queues = sorted({overflow.queue_of(pool) for pool, _ in self._stats.stages()})
        full = self._running_limits.known_full
        fronts: defaultdict[str, list[str]] = defaultdict(list)
        waiting = await self._database.rows(FRONT, {"pools": queues})
        for pool, tenant, endpoint, runs_at in waiting:
            if endpoint not in full.endpoints and tenant not in full.tenants:
                fronts[pool].append(runs_at)
        if not fronts:
            return {}
        pools = sorted({pool for queue in fronts for pool in overflow.chain(queue)})
        rows = await self._database.rows(READY, {"pools": pools})
        replicas: defaultdict[str, list[ReplicaWeights]] = defaultdict(list)
        unfit = {pool: self._terms.unfit(*overflow.fit_of(pool)) for pool in overflow.before}
        for id_, pool, slots, *weights in rows:
            ready = _replica(id_, slots, weights, unfit.get(pool, frozenset()))
            replicas[overflow.queue_of(pool)].append(ready)
        return {
            id_: endpoints
            for pool, front in fronts.items()
            for id_, endpoints in upcoming(front, replicas[pool]).items()
        }


def _replica(id_: str, slots: int, weights: Sequence[Any], unfit: frozenset[str]) -> ReplicaWeights:
    hot, warm, loading, not_kept = weights
    coming = (id_ for load in from_plain(loading) for id_ in load.endpoints)
    return ReplicaWeights(
        id_,
        slots,
        frozenset(hot),
        frozenset(warm),
        frozenset(coming),
        unfit | {name for name, _ in not_kept},
    )
