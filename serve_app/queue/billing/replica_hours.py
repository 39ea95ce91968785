"""Times of replicas by hour, sampled from their presence, and what was made in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from serve_app.domain.billing.report import MadeUnits, ReplicaHours
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.store.billing import LINES

SAMPLE_EVERY_S = 10.0
MAX_SAMPLE_S = 30.0
"""Longest time that one sample stands for. After a longer gap, the rest is not counted."""

SAMPLE = """
-- name: sample_replicas
WITH alive AS (
    SELECT pool, coalesce(device, '') AS gpu, EXISTS (
        SELECT 1 FROM requests q WHERE q.state = 'running' AND q.actor_id = r.actor_id) AS busy
    FROM live_replicas r
)
INSERT INTO replica_hours AS h (hour, pool, gpu, paid_s, busy_s)
SELECT date_trunc('hour', now(), 'UTC'), pool, gpu, count(*) * %(took_s)s::numeric,
       count(*) FILTER (WHERE busy) * %(took_s)s::numeric
FROM alive GROUP BY 2, 3
ON CONFLICT (hour, pool, gpu) DO UPDATE
SET paid_s = h.paid_s + excluded.paid_s, busy_s = h.busy_s + excluded.busy_s
"""
HOURS = """
-- name: read_replica_hours
SELECT pool, gpu, sum(paid_s), sum(busy_s) FROM replica_hours
WHERE hour >= %(since)s::timestamptz AND hour < %(until)s::timestamptz
GROUP BY 1, 2 ORDER BY 1, 2
"""
MADE = f"""
-- name: read_made
SELECT endpoint, sum(requests)::bigint, sum(images)::bigint, sum(megapixels)::bigint, sum(units),
       sum(run_s)
FROM {LINES} lines
WHERE at >= %(since)s::timestamptz AND at < %(until)s::timestamptz AND state = 'succeeded'
  AND run_s > 0
GROUP BY 1 ORDER BY 1
"""


class PostgresCostBook:
    """Implements ``CostBook``. One process at a time samples."""

    def __init__(self, database: Database, reads: FairReads, clock: Clock) -> None:
        self._database = database
        self._reads = reads
        self._clock = clock
        self._sampled_at: float | None = None  # monotonic

    async def sample(self) -> None:
        """Add the time since the last sample to every replica that is alive now."""
        now = self._clock.monotonic()
        since = SAMPLE_EVERY_S if self._sampled_at is None else now - self._sampled_at
        took_s = round(min(since, MAX_SAMPLE_S), 3)
        await self._database.rows(SAMPLE, {"took_s": took_s})
        self._sampled_at = now

    async def replica_hours(self, since: datetime, until: datetime) -> Sequence[ReplicaHours]:
        rows = await self._reads.rows(None, HOURS, {"since": since, "until": until})
        return [ReplicaHours(*row) for row in rows]

    async def made_units(self, since: datetime, until: datetime) -> Sequence[MadeUnits]:
        rows = await self._reads.rows(None, MADE, {"since": since, "until": until})
        return [MadeUnits(*row) for row in rows]
