"""Connections to PostgreSQL, and its errors in Darkroom's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors as pg
from psycopg_pool import AsyncConnectionPool, PoolClosed

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.telemetry.logs import request_id

log = logging.getLogger(__name__)

POOL_WAIT_S = 3.0
ANSWER_S = 15.0
TRIES = 3
LOOK_S = 0.3

# Every statement of the queue finds its rows by an index. A plan that was made while a table was
# small and reads all of it would be kept when the table has grown, so the planner may not make one.
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
    """Advisory locks that a statement takes first, and holds to its commit."""

    numbers: Sequence[int]  # of 64 bits, signed
    shared: bool = False

    @property
    def statement(self) -> LiteralString:
        if self.shared:
            return "SELECT pg_advisory_xact_lock_shared(n) FROM unnest($1::bigint[]) n"
        return "SELECT pg_advisory_xact_lock(n) FROM unnest($1::bigint[]) n"

    def sorted(self) -> list[int]:
        """In one order for all, so that no two wait for each other."""
        return sorted(set(self.numbers))


class Database:
    """A pool of connections; every statement is its own transaction.

    ``DatabaseUnavailable`` comes within seconds when the server goes away (within 25 when it only
    falls silent), at once while it is known to be away, and nothing needs to be done for it to work
    again when the server is back.
    """

    def __init__(self, conninfo: str, connections: int = 8) -> None:
        self.conninfo = conninfo
        self._connections = connections
        self._pool: AsyncConnectionPool | None = None
        self._statements: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._away: str | None = None  # why, while it is
        self._mending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._pool is None:
            self._pool = await self._open()

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        if pool is not None:
            await pool.close()

    async def rows(
        self, sql: str, params: Mapping[str, Any] | None = None, *, lock: Lock | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement, which is committed when this returns.

        With ``lock`` it begins, and takes its snapshot, only when no other that was given one of
        the same numbers is under way, unless both share them.
        """
        for attempt in range(TRIES):
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await self._once(sql, params, lock)
            except (pg.DeadlockDetected, pg.SerializationFailure):
                # Nothing of the statement was done, so doing it again is safe.
                if attempt == TRIES - 1:
                    raise
            except pg.DiskFull as error:
                raise DatabaseUnavailable(f"PostgreSQL's disk is full: {error}") from error
            except (psycopg.OperationalError, psycopg.InterfaceError, PoolClosed, OSError) as error:
                # PoolTimeout is an OperationalError, TimeoutError an OSError.
                self._mend()
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
        raise AssertionError("unreachable")

    async def _once(
        self, sql: str, params: Mapping[str, Any] | None, lock: Lock | None
    ) -> list[tuple[Any, ...]]:
        if self._pool is None:
            raise DatabaseUnavailable("The database is closed.")
        if self._away is not None:
            raise DatabaseUnavailable(f"PostgreSQL is away: {self._away}")
        given_up = _cancellations()
        async with self._pool.connection() as connection:
            if _cancellations() > given_up:
                # asyncio.wait_for of Python 3.11, by which the pool waits, forgets a cancellation
                # that comes in the same turn of the loop as the connection.
                raise asyncio.CancelledError
            numbered, names = self._numbered(sql)
            values = [params[name] for name in names] if params else ()
            if lock is None:
                return await _run(connection, numbered, values)
            async with connection.transaction():
                await connection.execute(lock.statement, [lock.sorted()])
                return await _run(connection, numbered, values)

    def _numbered(self, sql: str) -> tuple[str, tuple[str, ...]]:
        """``sql`` with ``$1`` for the first ``%(name)s`` and so on, and the names. Done once for
        each statement: psycopg does it at each call for those as long as ours."""
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
            timeout=POOL_WAIT_S,
            configure=_configure,
            open=False,
            name="darkroom",
        )
        await pool.open()
        return pool

    def _mend(self) -> None:
        if self._pool is not None and (self._mending is None or self._mending.done()):
            self._mending = asyncio.create_task(self._until_mended(self._pool))

    async def _until_mended(self, broken: AsyncConnectionPool) -> None:
        """Wait for the server, then replace all connections at once: after its restart each of them
        is broken, and would fail a statement to show it. The pool alone would try again ever more
        seldom."""
        request_id.set(None)  # It is not about the one whose statement failed first.
        while (problem := await _problem(self.conninfo)) is not None:
            if self._away is None:
                log.warning("PostgreSQL is away: %s", problem)
            self._away = problem
            await asyncio.sleep(LOOK_S)
        if self._away is None:
            # It was one connection, or one statement; the others may be whole.
            with contextlib.suppress(psycopg.Error, PoolClosed, OSError):
                await broken.check()
            return
        fresh = await self._open()
        if self._pool is not broken:  # closed meanwhile
            await fresh.close()
            return
        self._pool, self._away = fresh, None
        log.warning("PostgreSQL is back")
        await broken.close(timeout=1.0)


def _cancellations() -> int:
    """How many times the current task was told to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _run(
    connection: psycopg.AsyncConnection, numbered: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(cast("LiteralString", numbered), values, prepare=True)
    return await cursor.fetchall() if cursor.pgresult and cursor.pgresult.nfields else []


async def _problem(conninfo: str) -> str | None:
    """Why no connection can be made; None if one can."""
    try:
        async with await psycopg.AsyncConnection.connect(conninfo, **CONNECT):
            return None
    except (psycopg.Error, OSError) as error:
        return str(error).strip().splitlines()[0] if str(error) else type(error).__name__


async def _configure(connection: psycopg.AsyncConnection) -> None:
    await connection.execute(SESSION)
