"""Connections that outlast a test.

A new session of PostgreSQL reads the catalogue and plans each statement anew: 130 ms of CPU for one
test of the queue, half of what it took in all. A process in production keeps its sessions for days.
"""

from __future__ import annotations

import asyncio
import atexit
import select
from typing import Any, ClassVar, Self

import psycopg
from psycopg.pq import TransactionStatus

from serve_app.postgres.database import Database


class LastingConnection(psycopg.AsyncConnection):
    """Connection whose session serves another one after it was closed, unless it was broken."""

    _free: ClassVar[dict[tuple[str, str], list[LastingConnection]]] = {}
    _key: tuple[str, str] | None = None

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        key = (conninfo, repr(sorted(kwargs.items())))
        free = cls._free.get(key, [])
        while free:
            connection = free.pop()
            if connection._is_intact():
                connection.lock = asyncio.Lock()  # the one before may belong to another event loop
                return connection
            await connection._end()
        connection = await super().connect(conninfo, **kwargs)
        connection._key = key
        return connection

    async def close(self) -> None:
        if self._key is None or self.closed or not self._is_intact():
            await self._end()
        else:
            self._free.setdefault(self._key, []).append(self)

    async def _end(self) -> None:
        await super().close()

    def _is_intact(self) -> bool:
        """Return True if it is in no transaction, and its server has said nothing unread."""
        if self.pgconn.transaction_status != TransactionStatus.IDLE:
            return False
        readable, _, _ = select.select([self.pgconn.socket], [], [], 0)
        return not readable

    @classmethod
    def end_free(cls) -> None:
        """End the sessions that nobody uses."""
        for connection in [one for free in cls._free.values() for one in free]:
            connection.pgconn.finish()
        cls._free.clear()


atexit.register(LastingConnection.end_free)


class LastingDatabase(Database):
    """Database whose sessions outlast it."""

    connection_class = LastingConnection
