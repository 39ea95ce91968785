"""Checks of an operator's own PostgreSQL server, and of what holds back its vacuum."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import sql

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.postgres.database import SILENT_S, Database, answers_within, settings
from serve_app.postgres.failed_connections import failed_connection
from serve_app.queue.store.migrations import OLDEST_SERVER
from serve_app.telemetry.queue_metrics import QueueMeter

NOTIFICATION_TIMEOUT_S = 3.0


log = logging.getLogger(__name__)

DURABILITY = """
SELECT current_setting('synchronous_commit'), current_setting('fsync'),
       current_setting('full_page_writes'), current_setting('synchronous_standby_names')
"""


async def examine(conninfo: str) -> str:
    """Check that the database can carry the queue. Returns its version, in words.

    Raises ``Misconfigured`` or ``DatabaseUnavailable`` if it does not answer, is too old, may not
    create tables, or loses notifications.
    """
    # Nothing is prepared: a pooler may run each statement on another connection.
    given: dict[str, Any] = {**settings(conninfo), "prepare_threshold": None}
    try:
        async with (
            await psycopg.AsyncConnection.connect(conninfo, **given) as listener,
            answers_within(listener, SILENT_S + NOTIFICATION_TIMEOUT_S),
            await psycopg.AsyncConnection.connect(conninfo, **given) as speaker,
            answers_within(speaker, SILENT_S + NOTIFICATION_TIMEOUT_S),
        ):
            version = listener.info.server_version
            if version < OLDEST_SERVER:
                raise Misconfigured(
                    f"DARKROOM_DATABASE_URL names a PostgreSQL {version // 10_000} server, and "
                    "Darkroom needs 15 or later. Upgrade it, or name another server."
                )
            await _check_create_privilege(speaker)
            await _check_notifications(listener, speaker)
            row = await (await speaker.execute(DURABILITY)).fetchone()
            loses = refuse_lossy(row or ())
            return f"PostgreSQL {version // 10_000}{'; ' if loses else ''}{loses}"
    except psycopg.OperationalError as error:
        reason = failed_connection(error).reason
        raise DatabaseUnavailable(
            f"The database of DARKROOM_DATABASE_URL cannot be used: {reason}"
        ) from None


async def check_durability(database: Database) -> None:
    """Raise ``Misconfigured`` if the server may lose what it has acknowledged, and log a warning if
    a failover may."""
    (row,) = await database.rows(DURABILITY)
    if loses := refuse_lossy(row):
        log.warning("The database has %s.", loses)


def refuse_lossy(row: Sequence[str]) -> str:
    """What a failover loses, for a row of ``DURABILITY``; empty if nothing.

    Raises ``Misconfigured`` if also a crash of the server loses acknowledged commits.
    """
    commit, fsync, full_pages, standbys = row
    for name, value in (
        ("synchronous_commit", commit),
        ("fsync", fsync),
        ("full_page_writes", full_pages),
    ):
        if value == "off":
            raise Misconfigured(
                f"PostgreSQL runs with {name} = off: requests that Darkroom has accepted could be "
                f"lost when the server stops. Set {name} = on (for synchronous_commit, also for "
                "the role and the database)."
            )
    if commit == "local" or not standbys:
        return "no synchronous standby, so a failover may lose the last accepted requests"
    return ""


async def _check_create_privilege(connection: psycopg.AsyncConnection) -> None:
    cursor = await connection.execute(
        "SELECT has_schema_privilege(current_schema(), 'CREATE'), current_user, current_schema()"
    )
    row = await cursor.fetchone()
    if row is None or not row[0]:
        name, schema = (row[1], row[2]) if row else ("?", "?")
        raise Misconfigured(
            f"The role {name} may not create tables in the schema {schema}. "
            f"Run GRANT CREATE ON SCHEMA {schema} TO {name}."
        )


async def _check_notifications(
    listener: psycopg.AsyncConnection, speaker: psycopg.AsyncConnection
) -> None:
    """Check that a notification arrives. A pgbouncer that pools by transaction runs the LISTEN on
    one server connection, and the next statement on another.
    """
    channel = f"darkroom_{uuid.uuid4().hex}"
    await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    await speaker.execute("SELECT pg_notify(%s, 'heard')", (channel,))
    try:
        async with asyncio.timeout(NOTIFICATION_TIMEOUT_S):
            async for _ in listener.notifies():
                return
    except TimeoutError:
        raise Misconfigured(
            "The database of DARKROOM_DATABASE_URL loses notifications: LISTEN does not work "
            "through a pgbouncer that pools by transaction. Connect to PostgreSQL directly, or "
            "set pool_mode = session."
        ) from None


# Monitor of how far back PostgreSQL must keep deleted row versions, because a transaction may
# still read them. The queue changes a row several times and looks for queued requests each
# second. While nothing can be vacuumed, both get slower by the hour.

MEASURE_EVERY_S = 10.0

# PostgreSQL shows other roles' transactions only to members of `pg_read_all_stats`. A vacuum holds
# nothing back. A transaction that only wrote has an id, and no snapshot between its statements.
OLDEST_TRANSACTION = """
-- name: oldest_transaction
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


class VacuumMonitor:
    """Measure the oldest transaction."""

    def __init__(
        self, database: Database, metrics: QueueMeter, on_measured: Callable[[int], None]
    ) -> None:
        """``on_measured`` gets the number of transactions whose versions it keeps."""
        self._database = database
        self._metrics = metrics
        self._on_measured = on_measured

    async def measure(self) -> None:
        """Record the oldest transaction."""
        ((oldest_s, transactions),) = await self._database.rows(OLDEST_TRANSACTION)
        self._metrics.oldest_transaction(oldest_s, transactions)
        self._on_measured(transactions)
