"""Connections to PostgreSQL, the translation of its errors into Darkroom's, and shared secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from prometheus_client import CollectorRegistry
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.array import ListBinaryDumper
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.postgres.failed_connections import READ_ONLY, FailedConnection, failed_connection
from serve_app.telemetry.database_metrics import DatabaseMetrics, PoolMetrics
from serve_app.telemetry.logs import request_id

log = logging.getLogger(__name__)

POOL_TIMEOUT_S = 3.0
STATEMENT_LIMIT_S = 8.0
"""After this time a statement's connection is closed. The server ends the statement a tenth
earlier, so a connection that reaches the limit is silent."""
SILENT_S = 3.0
"""Limit of what a healthy server answers at once: set-up, probes, and leases of leadership."""
STOOD_STILL = 0.1
"""A limit that is noticed later than by this part of it was missed by this process."""
MAX_TRIES = 3
RECONNECT_POLL_S = 0.3

# Every statement of the queue finds its rows by an index. A plan made while a table was small would
# read all of it, and would be kept when the table has grown. These settings forbid such plans.
SESSION: LiteralString = """
SELECT set_config('timezone', 'UTC', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('jit', 'off', false),
       set_config('lock_timeout', '5s', false),
       set_config('idle_in_transaction_session_timeout', '10s', false)
"""

KEEPALIVES: Mapping[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,  # ms without an acknowledgement of sent bytes
}

CONNECT: Mapping[str, Any] = {
    "autocommit": True,
    "prepare_threshold": 0,
    "connect_timeout": 3,
    "client_encoding": "utf8",
    "application_name": "darkroom",
    **KEEPALIVES,
}

WRITABLE: LiteralString = """
-- name: check_writable
SELECT NOT (pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean)
"""

LOCAL_LIMIT: LiteralString = "SELECT set_config('statement_timeout', $1, true)"

UNAWAITED: LiteralString = "(SELECT set_config('synchronous_commit', 'off', true))"
"""SQL expression: a statement that evaluates it commits without waiting for the disk or a standby.
For what nobody is told before a later commit that waits: see docs/adr/0002."""

_PARAMETER = re.compile(r"%\((\w+)\)s")
_NAMED = re.compile(r"\s*-- name: (\w+)\n")
UNNAMED = "other"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement with ``$1``, ``$2``, … in place of its ``%(name)s``, and the names in that order.

    ``name``: from a first line ``-- name: lease``, for the metrics and PostgreSQL's own views.
    """

    name: str
    sql: str
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, sql: str) -> Statement:
        parameters = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
        numbers = {name: f"${n}" for n, name in enumerate(parameters, start=1)}
        named = _NAMED.match(sql)
        numbered = _PARAMETER.sub(lambda match: numbers[match[1]], sql)
        return cls(UNNAMED if named is None else named[1], numbered, parameters)


class LongTexts(list[str]):
    """Value of a parameter that is sent as binary. psycopg looks at each character of the texts in
    a plain list: 136 ms for 15 MiB, in place of 0.3 ms."""


psycopg.adapters.register_dumper(LongTexts, ListBinaryDumper)


@dataclass(frozen=True, slots=True)
class Lock:
    """Advisory locks that a statement takes first and holds until its commit."""

    numbers: Sequence[int]  # 64 bits, signed
    shared: bool = False

    @property
    def statement(self) -> LiteralString:
        if self.shared:
            return "SELECT pg_advisory_xact_lock_shared(n) FROM unnest($1::bigint[]) n"
        return "SELECT pg_advisory_xact_lock(n) FROM unnest($1::bigint[]) n"

    def sorted_numbers(self) -> list[int]:
        """Lock numbers in one global order, so that statements cannot deadlock on them."""
        return sorted(set(self.numbers))


class Database:
    """A pool of connections. Each statement is its own transaction.

    ``DatabaseUnavailable`` is raised within ``limit_s`` and at once while the server is known to be
    away: it is down, unreachable or silent, it only reads, or it is out of connections or disk.
    When a writable server is back, also another one behind the same address, calls work again
    without any action.
    """

    connection_class = psycopg.AsyncConnection

    def __init__(
        self,
        conninfo: str,
        connections: int = 8,
        limit_s: float | None = None,
        metrics: PoolMetrics | None = None,
    ) -> None:
        """``metrics``: None for none that are read."""
        self.conninfo = conninfo
        self._connections = connections
        self._limit_s = STATEMENT_LIMIT_S if limit_s is None else limit_s
        self._pool: AsyncConnectionPool | None = None
        self._statements: dict[str, Statement] = {}
        self._metrics = metrics or DatabaseMetrics(CollectorRegistry()).of("unread")
        self._unavailable_reason: str | None = None  # reason while the server is unavailable
        self._replace = False  # what is open may be broken, also if new connections can be made
        self._recovery_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._pool is None:
            self._pool = await self._open()
            self._metrics.watch(self._pool_stats)

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if self._recovery_task is not None:
            self._recovery_task.cancel()
            await asyncio.gather(self._recovery_task, return_exceptions=True)
        if pool is not None:
            await pool.close()

    async def check(self) -> None:
        """Raise ``DatabaseUnavailable`` unless the server answers and can write."""
        writable = await self.value(WRITABLE)
        if not writable:
            self._repair(replace=True)
            raise DatabaseUnavailable(READ_ONLY)

    async def rows(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        lock: Lock | None = None,
        limit_s: float | None = None,
    ) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. The statement is committed when this returns.

        With ``lock`` the statement begins, and takes its snapshot, only when no other statement
        that holds one of the same numbers is running, unless both take them as shared.
        ``limit_s``: for a statement that reads so much that it may need longer than the others.
        """
        for attempt in range(MAX_TRIES):
            try:
                return await self._once(sql, params, lock, limit_s)
            except (pg.DeadlockDetected, pg.SerializationFailure):
                # The statement had no effect, so it is safe to repeat it.
                if attempt == MAX_TRIES - 1:
                    raise
                self._metrics.count_retry()
            except pg.DiskFull as error:
                self._metrics.unavailable("disk_full")
                raise DatabaseUnavailable(f"PostgreSQL's disk is full: {error}") from error
            except (pg.QueryCanceled, pg.LockNotAvailable) as error:
                self._metrics.unavailable("slow")
                raise DatabaseUnavailable(f"PostgreSQL takes too long: {error}") from error
            except pg.ReadOnlySqlTransaction as error:
                self._metrics.unavailable("read_only")
                self._repair(replace=True)
                raise DatabaseUnavailable(READ_ONLY) from error
            except UNAVAILABLE as error:
                # A pool without a free connection may be busy: then its connections are intact.
                busy = isinstance(error, PoolTimeout)
                self._metrics.unavailable("busy" if busy else "away")
                self._repair(replace=not busy)
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
        raise AssertionError("unreachable")

    async def row(
        self, sql: str, params: Mapping[str, Any] | None = None, *, lock: Lock | None = None
    ) -> tuple[Any, ...] | None:
        """Run a statement as ``rows`` does, and return its first row. None: it has none."""
        return next(iter(await self.rows(sql, params, lock=lock)), None)

    async def value(
        self, sql: str, params: Mapping[str, Any] | None = None, *, lock: Lock | None = None
    ) -> Any:
        """The same for the first column of the row."""
        return next(iter(await self.row(sql, params, lock=lock) or ()), None)

    async def _once(
        self,
        sql: str,
        params: Mapping[str, Any] | None,
        lock: Lock | None,
        limit_s: float | None,
    ) -> list[tuple[Any, ...]]:
        repair = self._recovery_task
        if self._replace and repair is not None and self._unavailable_reason is None:
            # The pool's other connections may be as silent as the one that failed.
            await asyncio.wait({repair}, timeout=POOL_TIMEOUT_S)
        if self._pool is None:
            raise DatabaseUnavailable("The database is closed.")
        if self._unavailable_reason is not None:
            self._metrics.unavailable("away")
            raise DatabaseUnavailable(f"PostgreSQL is unavailable: {self._unavailable_reason}")
        given_up = _cancellations()
        pool = self._pool
        connection = await _free_connection(pool)
        # Without the connection's own context manager, which would commit once more.
        try:
            if _cancellations() > given_up:
                # In Python 3.11, asyncio.wait_for, which the pool uses, loses a cancellation that
                # arrives in the same turn of the loop as the connection.
                raise asyncio.CancelledError
            statement = self._statement(sql)
            values = [params[name] for name in statement.parameters] if params else ()
            began = time.perf_counter()
            try:
                async with AnswerLimit(connection, limit_s or self._limit_s):
                    if lock is None and limit_s is None:
                        return await _run(connection, statement.sql, values)
                    async with connection.transaction():
                        if limit_s is not None:
                            await connection.execute(LOCAL_LIMIT, [_milliseconds(limit_s)])
                        if lock is not None:
                            await connection.execute(lock.statement, [lock.sorted_numbers()])
                        return await _run(connection, statement.sql, values)
            finally:
                self._metrics.ran(statement.name, time.perf_counter() - began)
        finally:
            await pool.putconn(connection)

    def _statement(self, sql: str) -> Statement:
        """The statement of ``sql``, parsed once: psycopg would repeat it at each call for
        statements as long as ours.
        """
        known = self._statements.get(sql)
        if known is None:
            known = self._statements[sql] = Statement.of(sql)
        return known

    def _pool_stats(self) -> Mapping[str, int]:
        """The pool's figures by psycopg's names; empty while it is closed. For any thread."""
        pool = self._pool
        return {} if pool is None else pool.get_stats()

    async def _open(self) -> AsyncConnectionPool:
        pool: AsyncConnectionPool = AsyncConnectionPool(
            self.conninfo,
            connection_class=self.connection_class,
            kwargs={**settings(self.conninfo), "cursor_factory": psycopg.AsyncRawCursor},
            min_size=min(4, self._connections),
            max_size=self._connections,
            timeout=POOL_TIMEOUT_S,
            configure=self._configure,
            open=False,
            name="darkroom",
        )
        await pool.open()
        return pool

    async def _configure(self, connection: psycopg.AsyncConnection) -> None:
        async with AnswerLimit(connection, SILENT_S):
            await connection.execute(SESSION)
            await connection.execute(
                "SELECT set_config('statement_timeout', $1, false)",
                [_milliseconds(self._limit_s)],
            )

    def _repair(self, *, replace: bool) -> None:
        self._replace = self._replace or replace
        if self._pool is not None and (self._recovery_task is None or self._recovery_task.done()):
            self._recovery_task = asyncio.create_task(self._wait_and_reconnect(self._pool))

    async def _wait_and_reconnect(self, broken: AsyncConnectionPool) -> None:
        """Wait for a server that can write, then replace all connections at once if they may be
        broken: after a restart, or when the network has forgotten them, each would fail one
        statement. The pool alone would retry at ever longer intervals.
        """
        request_id.set(None)  # This task is not about the request whose statement failed first.
        while (problem := await _problem(self.conninfo)) is not None:
            if self._unavailable_reason is None:
                log.warning("PostgreSQL is unavailable; waiting for it: %s", problem.reason)
            self._unavailable_reason, self._replace = problem.reason, True
            await asyncio.sleep(RECONNECT_POLL_S)
        if not self._replace:
            return
        fresh = await self._open()
        if self._pool is not broken:  # closed in between
            await fresh.close()
            return
        was_away = self._unavailable_reason is not None
        self._pool, self._unavailable_reason, self._replace = fresh, None, False
        if was_away:
            log.warning("PostgreSQL is available again")
        await broken.close(timeout=1.0)


async def _free_connection(pool: AsyncConnectionPool) -> psycopg.AsyncConnection:
    """A connection of the pool, to be put back. ``PoolTimeout`` if none is free in time, in which
    time that this process stood still is not counted: one may have become free meanwhile."""
    loop = asyncio.get_running_loop()
    end = loop.time() + pool.timeout
    try:
        return await pool.getconn()
    except PoolTimeout:
        if loop.time() - end < STOOD_STILL * pool.timeout:
            raise
        return await pool.getconn()


UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolClosed, OSError)
"""PoolTimeout is an OperationalError, TimeoutError an OSError."""


class NoAnswer(psycopg.OperationalError):
    """Raised when a connection was closed because the server said nothing."""


class AnswerLimit:
    """Async context manager that gives what runs in its block ``limit_s``. Then the connection is
    closed, which raises ``NoAnswer`` in the block.

    A cancellation would not do: psycopg first asks the server to cancel the statement, and waits up
    to 10 s for a server that says nothing. Time in which this process stood still is not counted:
    the answer may have come meanwhile.
    """

    __slots__ = ("_connection", "_expired", "_extended", "_limit_s", "_loop", "_timer")

    def __init__(self, connection: psycopg.AsyncConnection, limit_s: float) -> None:
        self._connection = connection
        self._limit_s = limit_s
        self._expired = self._extended = False

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._limit_s, self._close)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._timer.cancel()
        if not self._expired:
            return
        # If the answer came in the same turn of the loop, only the next statement would fail.
        await self._connection.close()
        if isinstance(error, psycopg.Error):
            raise NoAnswer(f"no answer within {self._limit_s:g} s") from error

    def _close(self) -> None:
        late = self._loop.time() - self._timer.when()
        if late > STOOD_STILL * self._limit_s and not self._extended:
            self._extended = True
            self._timer = self._loop.call_later(min(late, self._limit_s), self._close)
            return
        self._expired = True
        shut_down(self._connection)


def _milliseconds(limit_s: float) -> str:
    """The server's limit of a statement: see ``STATEMENT_LIMIT_S``."""
    return f"{int(900 * limit_s)}ms"


def shut_down(connection: psycopg.AsyncConnection) -> None:
    """Close the socket of a connection. What waits for its answer fails at once."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)


async def wait_until_reachable(conninfo: str) -> None:
    """Wait for a server that can write.

    Raises ``Misconfigured`` if it refuses the role, its password or the database, which waiting
    does not change.
    """
    reported = None
    while (problem := await _problem(conninfo)) is not None:
        if problem.refused:
            raise Misconfigured(f"PostgreSQL refuses the connection: {problem.reason}")
        if problem != reported:
            log.warning("PostgreSQL is unavailable; the start waits for it: %s", problem.reason)
            reported = problem
        await asyncio.sleep(RECONNECT_POLL_S)


def settings(conninfo: str) -> Mapping[str, Any]:
    """Parameters of every connection. Among several hosts, the one that can write is taken."""
    chosen = "target_session_attrs" in conninfo_to_dict(conninfo)
    return CONNECT if chosen else {**CONNECT, "target_session_attrs": "read-write"}


def _cancellations() -> int:
    """Number of cancellations requested for the current task."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _run(
    connection: psycopg.AsyncConnection, numbered: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(cast("LiteralString", numbered), values, prepare=True)
    return await cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []


async def _problem(conninfo: str) -> FailedConnection | None:
    """Reason why no connection to a writable server can be made; None if one can."""
    try:
        async with (
            await psycopg.AsyncConnection.connect(conninfo, **settings(conninfo)) as connection,
            AnswerLimit(connection, SILENT_S),
        ):
            row = await (await connection.execute(WRITABLE)).fetchone()
            return None if row and row[0] else FailedConnection(READ_ONLY)
    except (psycopg.Error, OSError) as error:
        return failed_connection(error)
