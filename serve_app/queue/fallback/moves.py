"""Move queued requests to their fallbacks, or to other pools: PostgreSQL behind the port
``Fallbacks``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal

from serve_app.domain.executors.fallback import FallbackMove, QueuedGroup
from serve_app.domain.request import Priority
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit, PoolChange
from serve_app.queue.attempts.falling_back import fall_back
from serve_app.queue.fairness.fair_queue import wake_lanes
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.store import messages
from serve_app.queue.store.rows import known_id
from serve_app.telemetry.queue_metrics import QueueMeter

LANES = """
-- name: lanes_of_fallbacks
SELECT DISTINCT r.fallback ->> 'pool', r.tenant FROM requests r
WHERE r.id = ANY(%(ids)s::uuid[]) AND r.fallback IS NOT NULL
"""
# Requests are locked before budgets, and these before lanes, as at the end of an attempt.
MOVE = f"""
-- name: fall_back
WITH wanted AS (
    SELECT * FROM json_to_recordset(%(moves)s::json) AS x(n integer, id uuid, reason text)
),
held AS MATERIALIZED (
    SELECT r.id, r.endpoint, r.pool AS from_pool, r.fallback, w.n, w.reason
    FROM wanted w JOIN requests r ON r.id = w.id
    WHERE r.state = 'queued' AND r.fallback IS NOT NULL AND r.fell_back_to IS NULL
      AND r.snapshot IS NULL
    ORDER BY r.id
    FOR NO KEY UPDATE OF r SKIP LOCKED
),
fated AS MATERIALIZED (
    SELECT h.*, spend_on_fallback(h.endpoint, h.fallback) AS covered
    FROM (SELECT * FROM held ORDER BY endpoint, n OFFSET 0) h
),
moved AS (
    UPDATE requests r SET
        {fall_back("true", "j.reason")},
        events = r.events + 1
    FROM fated j WHERE r.id = j.id AND j.covered
    RETURNING r.id, r.tenant, r.pool, r.endpoint, r.state, r.events, r.fell_back_to, j.from_pool,
              j.reason
),
noted AS (
    INSERT INTO events (request_id, sequence, message)
    SELECT id, events, 'It falls back to ' || fell_back_to || ' (' || reason || ').' FROM moved
),
{wake_lanes("moved")}
SELECT id::text, from_pool, tenant, endpoint, pool, reason FROM moved
"""
SPENT = """
-- name: spent_on_fallbacks
SELECT spent FROM fallback_budgets WHERE endpoint = %(endpoint)s AND currency = %(currency)s
"""
AT_ONCE = 1000
"""Requests that change their pool in one statement, from the front of their queue."""
RUNS_AT = "coalesce(r.fell_back_to, r.endpoint)"
# One index step for each pool, however many requests it has.
OUTSIDE = f"""
-- name: queued_outside
WITH RECURSIVE each AS (
    (SELECT r.pool FROM requests r WHERE r.state = 'queued' ORDER BY r.pool LIMIT 1)
    UNION ALL
    SELECT (SELECT r.pool FROM requests r WHERE r.state = 'queued' AND r.pool > e.pool
            ORDER BY r.pool LIMIT 1)
    FROM each e WHERE e.pool IS NOT NULL
)
SELECT DISTINCT r.pool, r.tenant, {RUNS_AT}
FROM each e JOIN requests r ON r.pool = e.pool
WHERE e.pool <> ALL(%(pools)s::text[]) AND r.state = 'queued' AND r.priority <> %(realtime)s
ORDER BY 1, 2, 3
"""
# One index step for each group, however many requests it has. The order is that of the whole index,
# and its condition follows from a comparison only: PostgreSQL 17 drops IS NOT NULL of a column that
# is never null.
WITHIN = """
-- name: queued_within
WITH RECURSIVE each AS (
    (SELECT r.pool, r.tenant, r.endpoint FROM requests r
     WHERE r.state = 'queued' AND r.endpoint >= ''
     ORDER BY r.pool, r.tenant, r.endpoint, r.ranked_at, r.place LIMIT 1)
    UNION ALL
    SELECT n.* FROM each e CROSS JOIN LATERAL (
        SELECT r.pool, r.tenant, r.endpoint FROM requests r
        WHERE r.state = 'queued' AND r.endpoint >= ''
          AND (r.pool, r.tenant, r.endpoint) > (e.pool, e.tenant, e.endpoint)
        ORDER BY r.pool, r.tenant, r.endpoint, r.ranked_at, r.place LIMIT 1) n
)
SELECT e.pool, e.tenant, e.endpoint FROM each e
WHERE e.pool = ANY(%(pools)s::text[]) AND EXISTS (
    SELECT FROM requests r
    WHERE r.pool = e.pool AND r.tenant = e.tenant AND r.endpoint = e.endpoint
      AND r.state = 'queued' AND r.fell_back_to IS NULL AND r.priority <> %(realtime)s)
ORDER BY 1, 2, 3
"""
CHANGE_POOL = f"""
-- name: change_pool
WITH held AS MATERIALIZED (
    SELECT r.id, r.pool AS from_pool FROM requests r
    WHERE r.state = 'queued' AND r.pool = %(pool)s AND r.tenant = %(tenant)s
      AND {RUNS_AT} = %(endpoint)s AND r.priority <> %(realtime)s
    ORDER BY r.ranked_at, r.place LIMIT {AT_ONCE}
    FOR NO KEY UPDATE OF r SKIP LOCKED
),
moved AS (
    UPDATE requests r SET pool = %(to)s, events = r.events + 1
    FROM held j WHERE r.id = j.id
    RETURNING r.id, r.tenant, r.pool, r.endpoint, r.state, r.events, j.from_pool
),
noted AS (
    INSERT INTO events (request_id, sequence, message)
    SELECT id, events, %(message)s FROM moved
),
{wake_lanes("moved")}
SELECT id::text, from_pool, tenant, endpoint, pool FROM moved
"""


class PostgresFallbacks:
    """Implements ``Fallbacks``."""

    def __init__(
        self, database: Database, state: QueueState, after: AfterCommit, metrics: QueueMeter
    ) -> None:
        self._database = database
        self._state = state
        self._after = after
        self._metrics = metrics

    async def move(self, moves: Sequence[FallbackMove]) -> Sequence[str]:
        if not moves:
            return ()
        named = [
            {"n": n, "id": known_id(each.request_id), "reason": each.reason}
            for n, each in enumerate(moves)
        ]
        lanes = await self._database.rows(LANES, {"ids": [row["id"] for row in named]})
        await self._state.lanes.open((str(pool), str(tenant)) for pool, tenant in lanes)
        rows = await self._database.rows(MOVE, {"moves": messages.compact(named)})
        moved = [(PoolChange(*columns), reason) for *columns, reason in rows]
        self._after.changed_pools([change for change, _ in moved])
        for change, reason in moved:
            self._metrics.fell_back(change.endpoint, reason)
        return [change.request_id for change, _ in moved]

    async def period_cost(self, endpoint: str, currency: str) -> Decimal:
        params = {"endpoint": endpoint, "currency": currency}
        value = await self._database.value(SPENT, params)
        return Decimal(0) if value is None else Decimal(value)

    async def queued_outside(self, pools: Collection[str]) -> Sequence[QueuedGroup]:
        params = {"pools": sorted(pools), "realtime": Priority.REALTIME}
        rows = await self._database.rows(OUTSIDE, params)
        return [QueuedGroup(str(pool), str(tenant), str(id_)) for pool, tenant, id_ in rows]

    async def queued_within(self, pools: Collection[str]) -> Sequence[QueuedGroup]:
        params = {"pools": sorted(pools), "realtime": Priority.REALTIME}
        rows = await self._database.rows(WITHIN, params)
        return [QueuedGroup(str(pool), str(tenant), str(id_)) for pool, tenant, id_ in rows]

    async def change_pool(self, group: QueuedGroup, pool: str) -> int:
        await self._state.lanes.open([(pool, group.tenant)])
        params = {
            "pool": group.pool,
            "tenant": group.tenant,
            "endpoint": group.endpoint,
            "to": pool,
            "realtime": Priority.REALTIME,
            "message": messages.other_pool(group.pool, pool),
        }
        moved = 0
        while rows := await self._database.rows(CHANGE_POOL, params):
            self._after.changed_pools([PoolChange(*row) for row in rows])
            moved += len(rows)
        return moved
