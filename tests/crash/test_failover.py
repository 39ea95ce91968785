"""A standby that is promoted, also one that lost the primary's last transactions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import LiteralString, TypeVar

import psycopg
import pytest

from serve_app.domain.errors import DatabaseUnavailable, RequestNotFound
from serve_app.domain.lease import Lease, Verdict
from serve_app.domain.request import State
from serve_app.postgres.database import Database, wait_until_reachable
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.migrations import migrate
from serve_app.telemetry.clock import SystemClock
from tests.chaos.standby import Pair, pair
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES
from tests.queue.requests import TENANT, ask, failure, make_finish, new, report

T = TypeVar("T")
ANSWERS_S = 10.0


@pytest.fixture
async def servers() -> AsyncIterator[Pair]:
    async with pair() as running:
        await migrate(running.conninfo)
        yield running


@pytest.fixture
async def database(servers: Pair) -> AsyncIterator[Database]:
    postgres = Database(servers.conninfo)
    await postgres.start()
    yield postgres
    await postgres.aclose()


@pytest.fixture
async def queue(database: Database) -> AsyncIterator[PostgresQueue]:
    assembled = assemble(
        database, SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), "ingress"
    )
    await assembled.start()
    yield assembled
    await assembled.aclose()


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` returns as soon as the database is back."""
    began = time.monotonic()
    while True:
        try:
            return await call()
        except DatabaseUnavailable:
            assert time.monotonic() - began < ANSWERS_S
            await asyncio.sleep(0.1)


async def replicate_before_acknowledging(servers: Pair, standbys: LiteralString) -> None:
    """Commits wait for these standbys from now on; empty: for none."""
    async with await psycopg.AsyncConnection.connect(
        servers.primary.conninfo, autocommit=True
    ) as connection:
        await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{standbys}'")
        await connection.execute("SELECT pg_reload_conf()")
        shown = ""
        while shown != standbys:
            row = await (await connection.execute("SHOW synchronous_standby_names")).fetchone()
            shown = row[0] if row else ""


async def wait_for_lease(queue: PostgresQueue, replica: str) -> Lease:
    async with asyncio.timeout(ANSWERS_S):
        while not (leases := (await again(lambda: queue.ask(ask(1, replica=replica)))).leases):
            pass
    return leases[0]


async def test_the_fence_holds_across_a_failover_that_lost_the_last_transactions(
    servers: Pair, queue: PostgresQueue
) -> None:
    request = await queue.submit(new())
    await servers.caught_up()
    servers.cut()
    first = await wait_for_lease(queue, "first")
    await servers.fail_over()

    second = await wait_for_lease(queue, "second")
    assert (first.request_id, first.attempt) == (second.request_id, second.attempt)
    names = [{ticket.key for ticket in lease.upload_tickets} for lease in (first, second)]
    assert not names[0] & names[1]
    assert (await queue.report(report(first.key))).fenced == (first.key,)
    late = queue.finish(make_finish(first.key, failure(), replica="first"))
    own = queue.finish(make_finish(second.key, replica="second"))
    assert await asyncio.gather(late, own) == [Verdict.FENCED, Verdict.ACCEPTED]
    assert await queue.finish(make_finish(first.key, replica="first")) is Verdict.FENCED
    ended = await queue.get(TENANT, request.id)
    assert (ended.state, ended.replica_id) == (State.SUCCEEDED, "second")


@pytest.mark.long
async def test_only_what_somebody_is_told_of_waits_for_the_standby(
    servers: Pair, queue: PostgresQueue
) -> None:
    await queue.submit(new())
    await wait_for_lease(queue, "warm")
    await replicate_before_acknowledging(servers, "*")
    servers.cut()
    run = await queue.submit(new(answered_at_end=True))
    lease = await wait_for_lease(queue, "first")
    assert lease.request_id == run.id
    assert (await queue.report(report(lease.key, replica="first"))).fenced == ()
    waiting = [
        asyncio.create_task(call)
        for call in (
            queue.submit(new()),
            queue.finish(make_finish(lease.key, replica="first")),
        )
    ]
    assert await asyncio.wait(waiting, timeout=1.0) == (set(), set(waiting))
    await replicate_before_acknowledging(servers, "")
    assert (await asyncio.gather(*waiting))[1] is Verdict.ACCEPTED


@pytest.mark.long
async def test_a_run_that_a_failover_lost_is_unknown_and_its_attempt_is_fenced(
    servers: Pair, queue: PostgresQueue
) -> None:
    await queue.submit(new())
    await wait_for_lease(queue, "warm")
    await servers.caught_up()
    servers.cut()
    run = await queue.submit(new(answered_at_end=True))
    lease = await wait_for_lease(queue, "first")
    await servers.fail_over()
    late = make_finish(lease.key, replica="first")
    assert await again(lambda: queue.finish(late)) is Verdict.FENCED
    with pytest.raises(RequestNotFound):
        await queue.wait(TENANT, run.id, ANSWERS_S)


@pytest.mark.long
async def test_a_standby_is_not_ready_and_is_taken_when_it_is_promoted(
    servers: Pair, database: Database, queue: PostgresQueue
) -> None:
    await queue.submit(new())
    await servers.caught_up()
    servers.primary.stop()
    with pytest.raises(DatabaseUnavailable):
        await queue.submit(new())
    with pytest.raises(DatabaseUnavailable):
        await database.check()
    await servers.standby.ask("SELECT pg_promote()")
    await again(database.check)
    await again(lambda: queue.submit(new()))


async def until_reason(database: Database, words: str) -> str:
    """Reason of the check as soon as it has these words."""
    async with asyncio.timeout(ANSWERS_S):
        while True:
            try:
                await database.check()
            except DatabaseUnavailable as error:
                if words in error.message:
                    return error.message
            await asyncio.sleep(0.1)


@pytest.mark.long
async def test_the_reason_tells_a_primary_that_is_away_from_a_standby_that_answers(
    servers: Pair, database: Database
) -> None:
    primary, standby = (f"127.0.0.1:{server.port}" for server in (servers.primary, servers.standby))
    servers.primary.stop()
    reason = await until_reason(database, "No server takes writes")
    assert f"{primary} does not answer (Connection refused)" in reason
    assert f"{standby} only reads" in reason
    servers.standby.stop()
    reason = await until_reason(database, "No server answers")
    assert f"{primary} (Connection refused)" in reason
    assert f"{standby} (Connection refused)" in reason
    assert "only reads" not in reason


@pytest.mark.long
async def test_a_start_on_a_standby_waits_for_its_promotion(servers: Pair) -> None:
    servers.primary.stop()
    waiting = asyncio.create_task(wait_until_reachable(servers.conninfo))
    await asyncio.sleep(1.0)
    assert not waiting.done()
    await servers.standby.ask("SELECT pg_promote()")
    async with asyncio.timeout(ANSWERS_S):
        await waiting
