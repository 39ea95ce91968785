"""Reads of history and usage, which may take seconds: apart from the queue, and fair to tenants."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from serve_app.domain.errors import Overloaded
from serve_app.postgres.database import Database

CONNECTIONS = 2
READ_LIMIT_S = 6.0
WAIT_S = 5.0

TENANT_BUSY = (
    "Other queries of yours for history or usage are still running. Send them one after the other."
)
ALL_BUSY = "Many queries for history or usage are running. Try again in a moment."


class FairReads:
    """Statements on the connections of ``database``: as many at a time as it has, and one of each
    tenant. ``Overloaded`` if a turn does not come within ``WAIT_S``.

    The caller starts and closes ``database``, whose connections nothing of the queue uses.
    """

    def __init__(self, database: Database, connections: int = CONNECTIONS) -> None:
        self._database = database
        self._free = asyncio.Semaphore(connections)
        self._turns: dict[str | None, asyncio.Lock] = {}
        self._callers: Counter[str | None] = Counter()

    async def rows(
        self, tenant: str | None, sql: str, params: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Rows of one statement. ``tenant``: the reader; None: an operator, about all tenants."""
        async with self._turn(tenant), _acquire(self._free, ALL_BUSY):
            return await self._database.rows(sql, params)

    @asynccontextmanager
    async def _turn(self, tenant: str | None) -> AsyncGenerator[None]:
        lock = self._turns.setdefault(tenant, asyncio.Lock())
        self._callers[tenant] += 1
        try:
            async with _acquire(lock, TENANT_BUSY):
                yield
        finally:
            self._callers[tenant] -= 1
            if not self._callers[tenant]:
                del self._callers[tenant], self._turns[tenant]


@asynccontextmanager
async def _acquire(lock: asyncio.Lock | asyncio.Semaphore, busy: str) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(WAIT_S):
            await lock.acquire()
    except TimeoutError:
        raise Overloaded(busy, 2.0, "reads_busy") from None
    try:
        yield
    finally:
        lock.release()
