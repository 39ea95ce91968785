"""A queue of a million on a slow disk: its count takes longer than any other statement may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain.errors import DatabaseUnavailable, Overloaded
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.state.stats import COUNT
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import QUICK, Ingress
from tests.queue.requests import POOL, TENANT, lease, new

COUNT_S = 6.0


class SlowCounts(Database):
    """The server takes its time for each count, once ``slow`` is set."""

    slow = True
    counts = 0

    async def rows(self, sql: str, *params: Any, **named: Any) -> list[tuple[Any, ...]]:
        if sql is COUNT and self.slow:
            self.counts += 1
            sql = sql.replace("FROM requests", f"FROM pg_sleep({COUNT_S}) slow, requests")
        return await super().rows(sql, *params, **named)


@pytest.fixture
async def database(conninfo: str) -> AsyncIterator[SlowCounts]:
    slow_counts = SlowCounts(conninfo, limit_s=COUNT_S / 3)
    await slow_counts.start()
    yield slow_counts
    await slow_counts.aclose()


def slow_queue(
    database: Database, terms: FakeTerms, liveness: FakeLiveness, **limits: Any
) -> PostgresQueue:
    return assemble(
        database, SystemClock(), terms, replace(QUICK, **limits), liveness, "ingress-slow"
    )


async def test_it_starts_with_all_that_is_queued(
    ingress: Ingress, database: SlowCounts, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    before = await ingress()
    for _ in range(3):
        await before.submit(new())
    queue = slow_queue(database, terms, liveness, max_waiting=3)
    await queue.start()
    try:
        assert (await queue.demand())[POOL].queued == 3
        with pytest.raises(Overloaded):
            await queue.submit(new())
    finally:
        await queue.aclose()


@pytest.mark.long
async def test_leases_run_out_while_it_counts(
    database: SlowCounts, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    database.slow = False
    queue = slow_queue(database, terms, liveness)
    await queue.start()
    try:
        request = await queue.submit(new())
        await lease(queue)
        database.slow = True
        async with asyncio.timeout(60):
            while (await queue.get(TENANT, request.id)).state is State.RUNNING:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            while not database.counts:  # noqa: ASYNC110 - the queue counts when it is due
                await asyncio.sleep(0.05)
    finally:
        await queue.aclose()


async def test_others_keep_their_limit_on_the_same_connection(conninfo: str) -> None:
    database = Database(conninfo, connections=1, limit_s=0.5)
    await database.start()
    try:
        for _ in range(2):
            assert len(await database.rows("SELECT pg_sleep(1)", limit_s=30.0)) == 1
            with pytest.raises(DatabaseUnavailable, match=r"too long|no answer"):
                await database.rows("SELECT pg_sleep(1)")
    finally:
        await database.aclose()
