"""Connections to PostgreSQL, and its errors in Darkroom's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, LiteralString, cast

import psycopg
from psycopg import errors as pg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from serve_app.domain.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

POOL_WAIT_S = 3.0
ANSWER_S = 15.0
TRIES = 3

# Every statement of the queue finds its rows by an index. A plan that was made while a table was small
# and reads all of it would be kept when the table has grown, so the planner may not make one.
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


class Database:
    """A pool of connections; every statement is its own transaction.

    ``DatabaseUnavailable`` comes within seconds when the server is away, and nothing needs to be done
    for it to work again when the server is back.
    """

    def __init__(self, conninfo: str, connections: int = 8) -> None:
        self.conninfo = conninfo
        self._connections = connections
        self._pool: AsyncConnectionPool | None = None
        self._purge: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._pool is not None:
            return
        self._pool = AsyncConnectionPool(
            self.conninfo,
            kwargs=dict(CONNECT),
            min_size=min(4, self._connections),
            max_size=self._connections,
            timeout=POOL_WAIT_S,
            reconnect_timeout=30.0,
            configure=_configure,
            open=False,
            name="darkroom",
        )
        await self._pool.open()

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if self._purge is not None:
            self._purge.cancel()
            await asyncio.gather(self._purge, return_exceptions=True)
        if pool is not None:
            await pool.close()

    async def rows(
        self, sql: str, params: Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement, which is committed when this returns."""
        for attempt in range(TRIES):
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await self._once(sql, params)
            except (pg.DeadlockDetected, pg.SerializationFailure):
                # Nothing of the statement was done, so doing it again is safe.
                if attempt == TRIES - 1:
                    raise
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self._drop_broken_connections()
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
            except (PoolTimeout, PoolClosed, OSError) as error:  # TimeoutError is an OSError
                raise DatabaseUnavailable("PostgreSQL does not answer.") from error
        raise AssertionError("unreachable")

    async def _once(self, sql: str, params: Mapping[str, Any] | None) -> list[tuple[Any, ...]]:
        if self._pool is None:
            raise DatabaseUnavailable("The database is closed.")
        async with self._pool.connection() as connection:
            cursor = await connection.execute(cast("LiteralString", sql), params, prepare=True)
            return await cursor.fetchall() if cursor.description else []

    def _drop_broken_connections(self) -> None:
        """After a restart of the server every idle connection is broken: replace all of them at once,
        not one by each statement that fails."""
        if self._pool is not None and (self._purge is None or self._purge.done()):
            self._purge = asyncio.create_task(self._check(self._pool))

    async def _check(self, pool: AsyncConnectionPool) -> None:
        try:
            await pool.check()
        except (psycopg.Error, PoolTimeout, PoolClosed, OSError) as error:
            log.debug("The pool could not be checked: %s", error)


async def _configure(connection: psycopg.AsyncConnection) -> None:
    await connection.execute(SESSION)
