"""What an operator looks at when the queue does not move. Read when it is asked for."""

from __future__ import annotations

from serve_app.domain.operations import (
    Halt,
    LaneFigures,
    OpenTransaction,
    Overview,
    RunningLease,
)
from serve_app.queue.database import Database

MOST_LANES, MOST_LEASES = 500, 500

# Each half by the index of its state.
LANES = f"""
SELECT pool, tenant, sum(queued)::bigint, sum(running)::bigint,
       extract(epoch FROM now() - min(oldest))::double precision
FROM (
    SELECT pool, tenant, count(*) AS queued, 0 AS running, min(created_at) AS oldest
    FROM requests WHERE state = 'queued' GROUP BY 1, 2
    UNION ALL
    SELECT pool, tenant, 0, count(*), NULL FROM requests WHERE state = 'running' GROUP BY 1, 2
) halves
GROUP BY 1, 2 ORDER BY 3 DESC, 4 DESC, 1, 2 LIMIT {MOST_LANES}
"""
LEASES = f"""
SELECT id::text, attempt, tenant, endpoint, pool, replica_id,
       extract(epoch FROM now() - started_at)::double precision,
       extract(epoch FROM lease_until - now())::double precision
FROM requests WHERE state = 'running' ORDER BY started_at LIMIT {MOST_LEASES}
"""
# Of other roles, PostgreSQL tells only to whoever may know (`pg_read_all_stats`).
OLDEST_TRANSACTION = """
SELECT extract(epoch FROM now() - xact_start)::double precision, coalesce(state, ''),
       coalesce(application_name, ''), pid
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
  AND backend_type = 'client backend'
ORDER BY xact_start LIMIT 1
"""


async def overview(database: Database, halts: list[Halt]) -> Overview:
    lanes = await database.rows(LANES)
    leases = await database.rows(LEASES)
    oldest = await database.rows(OLDEST_TRANSACTION)
    return Overview(
        lanes=[LaneFigures(*row) for row in lanes],
        leases=[RunningLease(*row) for row in leases],
        halts=halts,
        oldest_transaction=OpenTransaction(*oldest[0]) if oldest else None,
    )
