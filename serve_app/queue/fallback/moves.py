"""Move queued requests to their fallbacks: PostgreSQL behind the port ``Fallbacks``."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from serve_app.domain.executors.fallback import FallbackMove
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit
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
        lanes = await self._database.rows(LANES, {"ids": [each["id"] for each in named]})
        await self._state.lanes.open((str(pool), str(tenant)) for pool, tenant in lanes)
        rows = await self._database.rows(MOVE, {"moves": messages.compact(named)})
        ids, pools = [str(row[0]) for row in rows], [str(row[4]) for row in rows]
        self._after.fell_back(ids, [(row[1], row[2], row[3]) for row in rows], pools)
        for row in rows:
            self._metrics.fell_back(row[3], row[5])
        return ids

    async def spent(self, endpoint: str, currency: str) -> Decimal:
        given = {"endpoint": endpoint, "currency": currency}
        rows = await self._database.rows(SPENT, given)
        return Decimal(rows[0][0]) if rows else Decimal(0)
