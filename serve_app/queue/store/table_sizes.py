"""Sizes of the queue's tables, measured by one ingress process for all, and the condition of the
database."""

from __future__ import annotations

from serve_app.postgres.database import Database
from serve_app.postgres.installation import last_backup
from serve_app.postgres.leader_election import LeaderElection
from serve_app.telemetry.queue_metrics import QueueMeter, TableSize

MEASURE_TABLES_EVERY_S = 60.0

# Of the current schema only. The sizes are read from the file system, the rows from statistics, so
# no table is read.
TABLES = """
-- name: table_sizes
SELECT relname::text, n_live_tup, n_dead_tup, pg_total_relation_size(relid),
       coalesce(extract(epoch FROM greatest(last_vacuum, last_autovacuum)), 0)::double precision
FROM pg_stat_user_tables WHERE schemaname = current_schema()
"""
CONDITION = """
-- name: database_condition
SELECT (SELECT coalesce(max(number), 0) FROM migrations),
       (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database())
"""
# A role without `pg_read_all_stats` sees none. Of two with one name, the one that is further behind
# counts. A base backup is no standby, though it streams.
STANDBYS = """
-- name: standbys
SELECT application_name, pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::bigint
FROM pg_stat_replication
WHERE state IN ('catchup', 'streaming') AND application_name <> 'pg_basebackup'
  AND flush_lsn IS NOT NULL
ORDER BY 2
"""


class TableMonitor:
    """Record the sizes of the tables in the elected process, and drop them in the others.

    ``database``: connections that the queue does not wait for. A statement of it ends after the
    limit of ``Database``, also while a table is locked.
    """

    def __init__(self, database: Database, election: LeaderElection, metrics: QueueMeter) -> None:
        self._database = database
        self._election = election
        self._metrics = metrics

    async def measure(self) -> bool:
        """Measure all tables. False: another process does it."""
        if not await self._election.leads("table sizes", 3 * MEASURE_TABLES_EVERY_S):
            self._metrics.tables([])
            return False
        rows = await self._database.rows(TABLES)
        self._metrics.tables([TableSize(*row) for row in rows])
        return True

    async def check(self) -> None:
        """Record the version of the schema, how many transaction ids are in use, the last backup,
        and the standbys."""
        ((version, age),) = await self._database.rows(CONDITION)
        self._metrics.database(version, age)
        self._metrics.backup(await last_backup(self._database))
        rows = await self._database.rows(STANDBYS)
        self._metrics.standbys([(name, lag) for name, lag in rows])
