"""A submit whose answer from PostgreSQL is lost, so that it is unknown whether it was stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import httpx
import psycopg
import pytest

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.request import Request, State
from serve_app.ingress.submission import submission
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.telemetry.clock import SystemClock
from tests.chaos.proxy import Lose, Proxy, before_postgres, through
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.ingress.house import House, build_house
from tests.queue.database import LONG_LEASES, conninfo, server

__all__ = ["conninfo", "server"]

STORED = b'"endpoint":"test/probe"'  # in the parameters of the statement that stores a request


@pytest.fixture
async def proxy(conninfo: str) -> AsyncIterator[tuple[Proxy, str]]:
    between = before_postgres(conninfo)
    yield between, through(conninfo, await between.start())
    await between.aclose()


@pytest.fixture
async def queue(proxy: tuple[Proxy, str]) -> AsyncIterator[PostgresQueue]:
    database = Database(proxy[1])
    await database.start()
    postgres = assemble(database, SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), "one")
    await postgres.start()
    yield postgres
    await postgres.aclose()
    await database.aclose()


@pytest.fixture
async def house(queue: PostgresQueue) -> AsyncIterator[House]:
    async with build_house(replica=False) as ingress:
        ingress.app.state.services = replace(ingress.services, queue=queue)
        yield ingress
        await ingress.app.state.services.background.join()


@pytest.mark.parametrize("path", ["/test/probe", "/queue/test/probe"])
async def test_it_is_answered_with_503_and_cancelled_if_it_was_stored(
    house: House, queue: PostgresQueue, proxy: tuple[Proxy, str], path: str
) -> None:
    proxy[0].lose(STORED, Lose.ANSWER)
    async with house.client() as client:
        answer = await client.post(path, json={})
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert proxy[0].lost == [STORED]
        async with asyncio.timeout(120):
            while not (stored := await queue.page("default")) or not stored[0].state.final:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert [request.state for request in stored] == [State.CANCELLED]


async def test_it_stays_if_its_idempotency_key_finds_it(
    house: House, queue: PostgresQueue, proxy: tuple[Proxy, str]
) -> None:
    proxy[0].lose(STORED, Lose.ANSWER)
    async with house.client() as client:

        async def submit() -> httpx.Response:
            return await client.post(
                "/queue/test/probe", json={}, headers={"Idempotency-Key": "mine"}
            )

        assert (await submit()).status_code == 503
        async with asyncio.timeout(120):
            while (repeated := await submit()).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert repeated.status_code == 200, repeated.text
    assert [request.id for request in await queue.page("default")] == [
        repeated.json()["request_id"]
    ]


async def test_a_run_that_a_crash_of_the_database_lost_is_answered_with_503(
    house: House, queue: PostgresQueue, conninfo: str
) -> None:
    async with house.client() as client, asyncio.timeout(120):
        running = asyncio.create_task(client.post("/test/probe", json={}))
        while not await queue.page("default"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            await connection.execute("TRUNCATE requests CASCADE")
        queue.parts.after.on_notification_gap()
        answer = await running
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    assert "send it again" in answer.json()["detail"]


@pytest.mark.long
@pytest.mark.parametrize("path", ["/test/probe", "/test/probe/stream"])
async def test_a_request_whose_end_cannot_be_read_is_cancelled_since_its_client_sends_another(
    house: House,
    queue: PostgresQueue,
    proxy: tuple[Proxy, str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(submission, "WAIT_S", 1.0)
    async with house.client() as client, asyncio.timeout(60):
        running = asyncio.create_task(client.post(path, json={}))
        while not await queue.page("default"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        if path.endswith("stream"):
            await asyncio.sleep(1.5)  # the answer has begun
        proxy[0].blackhole()
        proxy[0].reset()
        (answer,) = await asyncio.gather(running, return_exceptions=True)
        # A stream that fails has no end, which httpx does not expect.
        assert isinstance(answer, AssertionError) or answer.status_code == 503  # type: ignore[union-attr]
        proxy[0].heal()
        while not (stored := await page(queue)) or not stored[0].state.final:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert [request.state for request in stored] == [State.CANCELLED]


async def page(queue: PostgresQueue) -> Sequence[Request]:
    """Stored requests, as soon as the database can be reached."""
    while True:
        with contextlib.suppress(DatabaseUnavailable):
            return await queue.page("default")
        await asyncio.sleep(0.1)
