"""What each pool had in each minute of the last day, sampled by one process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

from serve_app.domain.lease import Demand
from serve_app.domain.operations import PoolSample
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads

KEPT = timedelta(hours=25)

SAMPLE = """
-- name: sample_pools
WITH old AS (DELETE FROM pool_minutes WHERE minute < now() - %(kept)s::interval),
ready AS (SELECT pool, count(*) AS replicas FROM live_replicas WHERE stage = 'ready' GROUP BY 1)
INSERT INTO pool_minutes AS p (minute, pool, queued, running, replicas, wait_s)
SELECT date_trunc('minute', now()), pool, coalesce(g.queued, 0), coalesce(g.running, 0),
       coalesce(ready.replicas, 0), coalesce(g.wait_s, 0)
FROM json_to_recordset(%(pools)s::json) AS g(
    pool text, queued integer, running integer, wait_s double precision)
FULL JOIN ready USING (pool)
ON CONFLICT (minute, pool) DO UPDATE
SET queued = greatest(p.queued, excluded.queued),
    running = greatest(p.running, excluded.running),
    replicas = greatest(p.replicas, excluded.replicas),
    wait_s = greatest(p.wait_s, excluded.wait_s)
"""
READ = """
-- name: read_pool_minutes
SELECT pool, date_bin(%(step)s::interval, minute, 'epoch') AS at, max(queued), max(running),
       max(replicas), max(wait_s)
FROM pool_minutes WHERE minute >= date_bin(%(step)s::interval, now() - %(span)s::interval, 'epoch')
GROUP BY 1, 2 ORDER BY 1, 2
"""


class PostgresPoolHistory:
    """Implements ``PoolHistory``. One process at a time samples."""

    def __init__(
        self,
        database: Database,
        reads: FairReads,
        demand: Callable[[], Awaitable[Mapping[str, Demand]]],
    ) -> None:
        self._database = database
        self._reads = reads
        self._demand = demand

    async def sample(self) -> None:
        """Note the largest figures of this minute, and forget those of a day ago."""
        pools = [
            {
                "pool": name,
                "queued": demand.queued,
                "running": demand.running,
                "wait_s": demand.oldest_wait_s,
            }
            for name, demand in (await self._demand()).items()
        ]
        await self._database.rows(SAMPLE, {"pools": json.dumps(pools), "kept": KEPT})

    async def read(self, span: timedelta, step: timedelta) -> Sequence[PoolSample]:
        rows = await self._reads.rows(None, READ, {"span": span, "step": step})
        return [PoolSample(*row) for row in rows]
