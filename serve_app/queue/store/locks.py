"""Leader election among ingress replicas, by session advisory locks."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psycopg

from serve_app.domain.errors import DatabaseUnavailable

# "dark": separates these locks from other users of advisory locks in the same database
SPACE = 0x6461726B


def _number(name: str) -> int:
    """Second key of a lock: 31 bits of a checksum that is the same in every process."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


class AdvisoryLocks:
    """Locks by name, held as long as one connection lives. A dead process holds none."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.AsyncConnection | None = None
        self._held: set[str] = set()

    async def leads(self, name: str) -> bool:
        """True if this process holds the lock ``name``. Takes the lock if it is free."""
        try:
            connection = await self._connected()
            if name in self._held:
                await connection.execute("SELECT 1")  # the lock ends with the connection
                return True
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s, %s)", (SPACE, _number(name))
            )
            row = await cursor.fetchone()
        except psycopg.Error as error:
            await self.aclose()
            raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
        if row is not None and row[0]:
            self._held.add(name)
        return name in self._held

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncGenerator[None]:
        """Wait for the lock ``name`` and hold it inside the block: one process at a time."""
        try:
            async with await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, connect_timeout=10
            ) as connection:
                await connection.execute("SELECT pg_advisory_lock(%s, %s)", (SPACE, _number(name)))
                yield
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        self._held.clear()
        if connection is not None:
            await connection.close()

    async def _connected(self) -> psycopg.AsyncConnection:
        if self._connection is None or self._connection.closed:
            self._held.clear()
            self._connection = await psycopg.AsyncConnection.connect(
                self._conninfo, autocommit=True, connect_timeout=5
            )
        return self._connection
