"""How far back PostgreSQL keeps what was deleted, because somebody may still look at it.

The queue changes a row some times and looks for what is queued each second: when nothing can be
cleared away, both get slower by the hour.
"""

from __future__ import annotations

from serve_app.queue.database import Database
from serve_app.queue.observer import Observer

LOOK_S = 10.0

# Of other roles, PostgreSQL tells only to whoever may know (`pg_read_all_stats`). A vacuum holds
# nothing back. A transaction that only wrote has a number, and no snapshot between its statements.
HOLDERS = """
SELECT greatest(0, coalesce(extract(epoch FROM now() - min(since)), 0))::double precision,
       coalesce(max(transactions), 0)
FROM (
    SELECT xact_start AS since, greatest(age(backend_xmin), age(backend_xid)) AS transactions
    FROM pg_stat_activity
    WHERE (datname = current_database() OR datname IS NULL) AND pid <> pg_backend_pid()
      AND backend_type <> 'autovacuum worker'
    UNION ALL
    SELECT prepared, age(transaction) FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT NULL, age(xmin) FROM pg_replication_slots
) holders
"""


class Horizon:
    def __init__(self, database: Database, observer: Observer) -> None:
        self._database = database
        self._observer = observer

    async def look(self) -> None:
        """Tell the observer."""
        ((oldest_s, transactions),) = await self._database.rows(HOLDERS)
        self._observer.held_back(oldest_s, transactions)
