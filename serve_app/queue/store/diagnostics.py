"""Checks of an operator's own PostgreSQL server, of its clock, and of what holds back vacuum."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.domain.ports import Clock
from serve_app.postgres.database import SILENT_S, AnswerLimit, Database, settings
from serve_app.postgres.failed_connections import failed_connection
from serve_app.queue.store.migrations import OLDEST_SERVER
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.queue_metrics import QueueMeter

NOTIFICATION_TIMEOUT_S = 3.0
CLOCK_DIFFERENCE_S = 30.0
"""Largest difference between the clocks of an ingress and of the database. The signatures of
webhooks and of S3 allow minutes."""


log = logging.getLogger(__name__)

DURABILITY = """
SELECT current_setting('synchronous_commit'), current_setting('fsync'),
       current_setting('full_page_writes'), current_setting('synchronous_standby_names')
"""


async def examine(conninfo: str) -> str:
    """Check that the database can carry the queue. Returns its version, in words.

    Raises ``Misconfigured`` or ``DatabaseUnavailable`` if it does not answer, is too old, may not
    create tables, loses notifications, or has another time than this machine.
    """
    clock = SystemClock()
    # Nothing is prepared: a pooler may run each statement on another connection.
    options: dict[str, Any] = {**settings(conninfo), "prepare_threshold": None}
    try:
        async with (
            await psycopg.AsyncConnection.connect(conninfo, **options) as listener,
            AnswerLimit(listener, SILENT_S + NOTIFICATION_TIMEOUT_S),
            await psycopg.AsyncConnection.connect(conninfo, **options) as speaker,
            AnswerLimit(speaker, SILENT_S + NOTIFICATION_TIMEOUT_S),
        ):
            version = listener.info.server_version
            if version < OLDEST_SERVER:
                raise Misconfigured(
                    f"DARKROOM_DATABASE_URL names a PostgreSQL {version // 10_000} server, and "
                    "Darkroom needs 15 or later. Upgrade it, or name another server."
                )
            await _check_create_privilege(speaker)
            await _check_notifications(listener, speaker)
            asked_at = clock.now()
            row = await (await speaker.execute("SELECT clock_timestamp()")).fetchone()
            refuse_difference(clock_ahead_s(row[0] if row else asked_at, asked_at, clock.now()))
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
    may_create, name, schema = await cursor.fetchone() or (False, "?", "?")
    if not may_create:
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


def clock_ahead_s(time: datetime, asked_at: datetime, answered_at: datetime) -> float:
    """Seconds by which the database's clock is ahead of this machine's at least; negative: behind.
    ``time`` was read between the question and the answer; nothing says when."""
    if time > answered_at:
        return (time - answered_at).total_seconds()
    return min(0.0, (time - asked_at).total_seconds())


def refuse_difference(ahead_s: float) -> None:
    """Raise ``Misconfigured`` for too large a result of ``clock_ahead_s``."""
    if abs(ahead_s) > CLOCK_DIFFERENCE_S:
        side = "ahead of" if ahead_s > 0 else "behind"
        raise Misconfigured(
            f"The database's clock is {abs(ahead_s):.0f} s {side} the clock of this machine. File "
            "URLs, keys and signatures expire too early or too late, and S3 and receivers of "
            "webhooks may refuse them. Synchronise both machines by NTP."
        )


# Monitor of how far back PostgreSQL must keep deleted row versions, because a transaction may
# still read them. The queue changes a row several times and looks for queued requests each
# second. While nothing can be vacuumed, both get slower by the hour.

MEASURE_EVERY_S = 10.0

# PostgreSQL shows other roles' transactions only to members of `pg_read_all_stats`. A vacuum holds
# nothing back. A transaction that only wrote has an id, and no snapshot between its statements.
OLDEST_TRANSACTION = """
-- name: oldest_transaction
SELECT greatest(0, coalesce(extract(epoch FROM now() - min(since)), 0))::double precision,
       coalesce(max(transactions), 0), clock_timestamp()
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


class DatabaseMonitor:
    """Measurement of the oldest transaction and of the database's clock."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        metrics: QueueMeter,
        on_measured: Callable[[int], None],
    ) -> None:
        """``on_measured`` gets the number of transactions whose versions it keeps."""
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._on_measured = on_measured

    async def measure(self) -> None:
        """Record the oldest transaction, and by how much the database's clock is ahead."""
        asked_at = self._clock.now()
        ((oldest_s, transactions, time),) = await self._database.rows(OLDEST_TRANSACTION)
        self._metrics.database_clock(clock_ahead_s(time, asked_at, self._clock.now()))
        self._metrics.oldest_transaction(oldest_s, transactions)
        self._on_measured(transactions)
