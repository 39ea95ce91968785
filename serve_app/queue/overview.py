"""Operators' view of the whole queue: its lanes, leases, and the requests that wait longest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from serve_app.domain.operations import (
    LaneFigures,
    OpenTransaction,
    Overview,
    QueueEntry,
    RunningLease,
)
from serve_app.domain.ports import Clock
from serve_app.domain.request import Priority
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.fairness.pauses import Pauses

MAX_LANES, MAX_LEASES = 500, 500
FRESH_S = 3.0
DUTY_FACTOR = 10  # an overview that takes long is read at most a tenth of the time
OVERVIEW, WAITING = "*overview", "*waiting"
"""Readers in ``FairReads``, which no tenant can be named: reports of operators hold up neither."""

# Each half uses the index of its state.
LANES = f"""
-- name: show_lanes
SELECT pool, tenant, sum(queued)::bigint, sum(running)::bigint,
       extract(epoch FROM now() - min(oldest))::double precision
FROM (
    SELECT pool, tenant, count(*) AS queued, 0 AS running, min(created_at) AS oldest
    FROM requests WHERE state = 'queued' GROUP BY 1, 2
    UNION ALL
    SELECT pool, tenant, 0, count(*), NULL FROM requests WHERE state = 'running' GROUP BY 1, 2
) halves
GROUP BY 1, 2 ORDER BY 3 DESC, 4 DESC, 1, 2 LIMIT {MAX_LANES}
"""
LEASES = f"""
-- name: show_leases
SELECT id::text, attempt, tenant, endpoint, pool, replica_id,
       extract(epoch FROM now() - started_at)::double precision,
       extract(epoch FROM lease_until - now())::double precision
FROM requests WHERE state = 'running' ORDER BY started_at LIMIT {MAX_LEASES}
"""
# PostgreSQL shows other roles' transactions only to members of `pg_read_all_stats`.
OLDEST_TRANSACTION = """
SELECT extract(epoch FROM now() - xact_start)::double precision, coalesce(state, ''),
       coalesce(application_name, ''), pid
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
  AND backend_type = 'client backend'
ORDER BY xact_start LIMIT 1
"""

# Requests by the time that they have waited. Those of all are read from the front of the index of
# each pool and priority; those of a tenant or an endpoint completely, and no others. Coalesced
# requests have no such index, and are few. That a row has a priority, which the index asks for,
# follows from a comparison only: PostgreSQL 17 drops IS NOT NULL of a column that is never null.
_OF_ALL = """
    SELECT e.id, e.place FROM groups g CROSS JOIN unnest(%(priorities)s::integer[]) AS n(priority)
    CROSS JOIN LATERAL (
        SELECT r.id, r.place FROM requests r
        WHERE r.state = 'queued' AND r.pool = g.pool AND r.priority = n.priority
            AND r.place > %(after)s
        ORDER BY r.pool, r.priority DESC, r.place LIMIT %(limit)s) e
"""
_POOLS = """
    (SELECT r.pool FROM requests r WHERE r.state = 'queued' AND r.priority >= 0
     ORDER BY r.pool, r.priority DESC, r.place LIMIT 1)
    UNION ALL
    SELECT (SELECT r.pool FROM requests r
            WHERE r.state = 'queued' AND r.priority >= 0 AND r.pool > g.pool
            ORDER BY r.pool, r.priority DESC, r.place LIMIT 1)
    FROM groups g WHERE g.pool IS NOT NULL
"""
_LANES = """
    (SELECT r.pool, r.tenant FROM requests r WHERE r.state = 'queued'
     ORDER BY r.pool, r.tenant, r.ranked_at, r.place LIMIT 1)
    UNION ALL
    SELECT e.pool, e.tenant FROM groups g CROSS JOIN LATERAL (
        SELECT r.pool, r.tenant FROM requests r
        WHERE r.state = 'queued' AND (r.pool, r.tenant) > (g.pool, g.tenant)
        ORDER BY r.pool, r.tenant, r.ranked_at, r.place LIMIT 1) e
"""
_OF_TENANT = """
    SELECT r.id, r.place FROM groups g JOIN requests r ON r.pool = g.pool AND r.tenant = g.tenant
    WHERE g.tenant = %(tenant)s AND r.state = 'queued' AND r.place > %(after)s
"""
_OF_ENDPOINTS = """
    SELECT r.id, r.place FROM groups g CROSS JOIN unnest(%(endpoints)s::text[]) AS n(endpoint)
    JOIN requests r ON r.pool = g.pool AND r.tenant = g.tenant AND r.endpoint = n.endpoint
    WHERE g.tenant = coalesce(%(tenant)s::text, g.tenant) AND r.state = 'queued'
        AND r.place > %(after)s
"""


def waiting_statement(*, of_tenant: bool, of_endpoints: bool) -> str:
    """Statement for one kind of page; separate statements, so that each uses its index."""
    groups, queued = (_LANES, _OF_TENANT) if of_tenant else (_POOLS, _OF_ALL)
    if of_endpoints:
        groups, queued = _LANES, _OF_ENDPOINTS
    own = "AND r.tenant = %(tenant)s" if of_tenant else ""
    names = "pool" if groups is _POOLS else "pool, tenant"
    return f"""
-- name: show_waiting
WITH RECURSIVE groups ({names}) AS ({groups}),
page AS MATERIALIZED (
    SELECT x.id FROM (
        {queued}
        UNION ALL
        SELECT r.id, r.place FROM requests r
        WHERE r.state = 'following' AND r.place > %(after)s {own}
            AND (%(endpoints)s::text[] IS NULL OR r.endpoint = ANY(%(endpoints)s::text[]))
    ) x ORDER BY x.place LIMIT %(limit)s
)
SELECT r.id::text, r.tenant, r.endpoint, r.pool, r.priority, r.attempt, r.created_at, r.place
FROM requests r WHERE r.id IN (SELECT id FROM page) ORDER BY r.place
"""


class OverviewReader:
    """Read the overview, and the requests that wait. ``reads``: statements that may take seconds,
    apart from the queue's.

    The lanes are counted over the whole queue, so all callers of a process share an overview for
    ``FRESH_S`` seconds, and longer where it takes long.
    """

    def __init__(self, reads: FairReads, pauses: Pauses, clock: Clock) -> None:
        self._reads = reads
        self._pauses = pauses
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: Overview | None = None
        self._fresh_until = float("-inf")
        self._changes = 0  # operations of this process

    async def overview(self) -> Overview:
        """Overview of the queue. The pauses are always read."""
        halts = [*await self._pauses.refresh()]
        async with self._lock:
            if self._last is not None and self._clock.monotonic() < self._fresh_until:
                return replace(self._last, halts=halts)
            changes, began = self._changes, self._clock.monotonic()
            read = await self._read()
            now = self._clock.monotonic()
            if changes == self._changes:  # otherwise it may be from before the operation
                self._last = read
                self._fresh_until = now + max(FRESH_S, DUTY_FACTOR * (now - began))
        return replace(read, halts=halts)

    def forget(self) -> None:
        """Read the next overview anew: an operation of this process has changed it."""
        self._changes += 1
        self._last = None

    async def _read(self) -> Overview:
        """Overview without the pauses."""
        lanes = await self._reads.rows(OVERVIEW, LANES, {})
        leases = await self._reads.rows(OVERVIEW, LEASES, {})
        oldest = await self._reads.rows(OVERVIEW, OLDEST_TRANSACTION, {})
        return Overview(
            lanes=[LaneFigures(*row) for row in lanes],
            leases=[RunningLease(*row) for row in leases],
            halts=(),
            oldest_transaction=OpenTransaction(*oldest[0]) if oldest else None,
        )

    async def waiting(
        self,
        *,
        tenant: str | None = None,
        endpoints: Sequence[str] = (),
        after: int = 0,
        limit: int = 50,
    ) -> Sequence[QueueEntry]:
        """See ``Operations``."""
        statement = waiting_statement(of_tenant=tenant is not None, of_endpoints=bool(endpoints))
        params = {
            "tenant": tenant,
            "endpoints": [*endpoints] or None,
            "after": after,
            "limit": limit,
            "priorities": [*Priority],
        }
        rows = await self._reads.rows(WAITING, statement, params)
        return [_queue_entry(*row) for row in rows]


def _queue_entry(
    id_: str,
    tenant: str,
    endpoint: str,
    pool: str,
    priority: int,
    attempt: int,
    created_at: datetime,
    place: int,
) -> QueueEntry:
    known = Priority(priority)
    return QueueEntry(id_, tenant, endpoint, pool, known, attempt, created_at, place)
