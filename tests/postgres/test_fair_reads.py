"""Long reads: apart from the queue, and one at a time for each tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from serve_app.domain.errors import Overloaded
from serve_app.postgres import fair_reads
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import CONNECTIONS, FairReads
from serve_app.queue.queue import assemble
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES
from tests.queue.requests import TENANT, new

SLOW = "SELECT pg_sleep(0.4)"


@pytest.fixture
async def reads(conninfo: str) -> AsyncIterator[Database]:
    database = Database(conninfo, CONNECTIONS)
    await database.start()
    yield database
    await database.aclose()


async def test_many_reads_of_one_tenant_keep_no_other_waiting(reads: Database) -> None:
    fair = FairReads(reads)
    ended: list[str] = []

    async def read(tenant: str) -> None:
        await fair.rows(tenant, SLOW, {})
        ended.append(tenant)

    await asyncio.gather(*(read("greedy") for _ in range(5)), read("modest"))
    assert ended.index("modest") <= 1


async def test_a_turn_that_does_not_come_is_refused(
    reads: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_reads, "WAIT_S", 0.1)
    fair = FairReads(reads)
    answers = await asyncio.gather(
        *(fair.rows("greedy", SLOW, {}) for _ in range(2)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 1
    assert refused[0].message == fair_reads.TENANT_BUSY
    assert fair._turns == {}  # nothing stays of tenants that read no more


async def test_submits_do_not_wait_for_long_reads(conninfo: str, reads: Database) -> None:
    database = Database(conninfo, connections=2)
    await database.start()
    queue = assemble(
        *(database, SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), "one"), reads=reads
    )
    await queue.start()
    async with await psycopg.AsyncConnection.connect(conninfo) as holder:
        await holder.execute("SELECT pg_advisory_lock(1)")
        # Readers that take long, as those of millions of rows do.
        slow = [
            asyncio.create_task(reads.rows("SELECT pg_advisory_lock_shared(1)"))
            for _ in range(CONNECTIONS)
        ]
        await asyncio.sleep(0.1)
        pages = [asyncio.create_task(queue.page(f"tenant-{n}")) for n in range(12)]
        for _ in range(5):
            await queue.submit(new())
        # On a slow machine some may have given up.
        assert not any(page.done() and page.exception() is None for page in pages)
        await holder.execute("SELECT pg_advisory_unlock(1)")
        await asyncio.gather(*slow, *pages, return_exceptions=True)
    assert len(await queue.page(TENANT)) == 5
    await queue.aclose()
    await database.aclose()
