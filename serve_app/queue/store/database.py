"""Connections to PostgreSQL, the translation of its errors into Darkroom's, and shared secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors as pg
from psycopg_pool import AsyncConnectionPool, PoolClosed

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.telemetry.logs import request_id

log = logging.getLogger(__name__)

POOL_TIMEOUT_S = 3.0
STATEMENT_TIMEOUT_S = 15.0
MAX_TRIES = 3
RECONNECT_POLL_S = 0.3

# Every statement of the queue finds its rows by an index. A plan made while a table was small would
# read all of it, and would be kept when the table has grown. These settings forbid such plans.
SESSION = """
SELECT set_config('timezone', 'UTC', false),
       set_config('enable_seqscan', 'off', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('enable_hashjoin', 'off', false),
       set_config('enable_mergejoin', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('jit', 'off', false),
       set_config('statement_timeout', '10s', false),
       set_config('lock_timeout', '5s', false),
       set_config('idle_in_transaction_session_timeout', '10s', false)
"""

CONNECT: Mapping[str, Any] = {
    "autocommit": True,
    "prepare_threshold": 0,
    "connect_timeout": 5,
    "application_name": "darkroom",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


_NAME = re.compile(r"%\((\w+)\)s")


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

    def sorted(self) -> list[int]:
        """Lock numbers in one global order, so that statements cannot deadlock on them."""
        return sorted(set(self.numbers))


class Database:
    """A pool of connections. Each statement is its own transaction.

    ``DatabaseUnavailable`` is raised within seconds when the server goes away (within 25 s when it
    only stops answering), and at once while it is known to be away. When the server is back, calls
    work again without any action.
    """

    def __init__(self, conninfo: str, connections: int = 8) -> None:
        self.conninfo = conninfo
        self._connections = connections
        self._pool: AsyncConnectionPool | None = None
        self._statements: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._unavailable_reason: str | None = None  # reason while the server is unavailable
        self._recovery_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._pool is None:
            self._pool = await self._open()

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if self._recovery_task is not None:
            self._recovery_task.cancel()
            await asyncio.gather(self._recovery_task, return_exceptions=True)
        if pool is not None:
            await pool.close()

    async def rows(
        self, sql: str, params: Mapping[str, Any] | None = None, *, lock: Lock | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. The statement is committed when this returns.

        With ``lock`` the statement begins, and takes its snapshot, only when no other statement
        that holds one of the same numbers is running, unless both take them as shared.
        """
        for attempt in range(MAX_TRIES):
            try:
                async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                    return await self._once(sql, params, lock)
            except (pg.DeadlockDetected, pg.SerializationFailure):
                # The statement had no effect, so it is safe to repeat it.
                if attempt == MAX_TRIES - 1:
                    raise
            except pg.DiskFull as error:
                raise DatabaseUnavailable(f"PostgreSQL's disk is full: {error}") from error
            except (psycopg.OperationalError, psycopg.InterfaceError, PoolClosed, OSError) as error:
                # PoolTimeout is an OperationalError, TimeoutError an OSError.
                self._repair()
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
        raise AssertionError("unreachable")

    async def _once(
        self, sql: str, params: Mapping[str, Any] | None, lock: Lock | None
    ) -> list[tuple[Any, ...]]:
        if self._pool is None:
            raise DatabaseUnavailable("The database is closed.")
        if self._unavailable_reason is not None:
            raise DatabaseUnavailable(f"PostgreSQL is unavailable: {self._unavailable_reason}")
        given_up = _cancellations()
        async with self._pool.connection() as connection:
            if _cancellations() > given_up:
                # In Python 3.11, asyncio.wait_for, which the pool uses, loses a cancellation that
                # arrives in the same turn of the loop as the connection.
                raise asyncio.CancelledError
            numbered, names = self._numbered(sql)
            values = [params[name] for name in names] if params else ()
            if lock is None:
                return await _run(connection, numbered, values)
            async with connection.transaction():
                await connection.execute(lock.statement, [lock.sorted()])
                return await _run(connection, numbered, values)

    def _numbered(self, sql: str) -> tuple[str, tuple[str, ...]]:
        """``sql`` with ``$1``, ``$2``, … in place of its ``%(name)s``, and the names in that order.

        Done once per statement: psycopg would repeat it at each call for statements as long as
        ours.
        """
        known = self._statements.get(sql)
        if known is None:
            names = tuple(dict.fromkeys(_NAME.findall(sql)))
            numbers = {name: f"${n}" for n, name in enumerate(names, start=1)}
            known = _NAME.sub(lambda found: numbers[found[1]], sql), names
            self._statements[sql] = known
        return known

    async def _open(self) -> AsyncConnectionPool:
        pool: AsyncConnectionPool = AsyncConnectionPool(
            self.conninfo,
            kwargs={**CONNECT, "cursor_factory": psycopg.AsyncRawCursor},
            min_size=min(4, self._connections),
            max_size=self._connections,
            timeout=POOL_TIMEOUT_S,
            configure=_configure,
            open=False,
            name="darkroom",
        )
        await pool.open()
        return pool

    def _repair(self) -> None:
        if self._pool is not None and (self._recovery_task is None or self._recovery_task.done()):
            self._recovery_task = asyncio.create_task(self._wait_and_reconnect(self._pool))

    async def _wait_and_reconnect(self, broken: AsyncConnectionPool) -> None:
        """Wait for the server, then replace all connections at once.

        After a restart each old connection is broken and would fail one statement. The pool alone
        would retry at ever longer intervals.
        """
        request_id.set(None)  # This task is not about the request whose statement failed first.
        while (problem := await _problem(self.conninfo)) is not None:
            if self._unavailable_reason is None:
                log.warning("PostgreSQL is unavailable; waiting for it: %s", problem)
            self._unavailable_reason = problem
            await asyncio.sleep(RECONNECT_POLL_S)
        if self._unavailable_reason is None:
            # It was one connection or one statement; the others may be intact.
            with contextlib.suppress(psycopg.Error, PoolClosed, OSError):
                await broken.check()
            return
        fresh = await self._open()
        if self._pool is not broken:  # closed in between
            await fresh.close()
            return
        self._pool, self._unavailable_reason = fresh, None
        log.warning("PostgreSQL is available again")
        await broken.close(timeout=1.0)


def _cancellations() -> int:
    """Number of cancellations requested for the current task."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _run(
    connection: psycopg.AsyncConnection, numbered: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(cast("LiteralString", numbered), values, prepare=True)
    return await cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []


async def _problem(conninfo: str) -> str | None:
    """Reason why no connection can be made; None if one can."""
    try:
        async with await psycopg.AsyncConnection.connect(conninfo, **CONNECT):
            return None
    except (psycopg.Error, OSError) as error:
        return str(error).strip().splitlines()[0] if str(error) else type(error).__name__


async def _configure(connection: psycopg.AsyncConnection) -> None:
    await connection.execute(SESSION)


# A secret shared by all ingress replicas of an installation, stored in its database.

KEEP = "INSERT INTO installation (key, value) VALUES (%(key)s, %(value)s) ON CONFLICT DO NOTHING"
READ = "SELECT value FROM installation WHERE key = %(key)s"


async def shared_secret(database: Database, name: str) -> bytes:
    """256 random bits, created by the first caller and the same for every later one."""
    # Two statements: one that inserts and reads would not see the row of a winner that committed
    # after its snapshot.
    await database.rows(KEEP, {"key": name, "value": secrets.token_hex(32)})
    ((value,),) = await database.rows(READ, {"key": name})
    return bytes.fromhex(value)
