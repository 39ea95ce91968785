"""Everything that uses PostgreSQL, when its connections fall silent, or the server only reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta

import psycopg
import pytest

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.postgres.database import AnswerLimit, Database, wait_until_reachable
from serve_app.postgres.leader_election import LEADS_S, RENEW_S, LeaderElection
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store import diagnostics
from serve_app.queue.store.notify import Notification, Notifier
from serve_app.telemetry.clock import SystemClock
from serve_app.tenants.key_ring import KeyRing
from tests.chaos.proxy import Proxy, before_postgres, through
from tests.fakes.clock import FakeClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, superuser_of
from tests.queue.requests import new

ANSWERS_S = 10.0
"""Everything works again this long after the first call that failed."""


@pytest.fixture
async def proxy(conninfo: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server, and the connection string that leads through it."""
    between = before_postgres(conninfo)
    yield between, through(conninfo, await between.start())
    await between.aclose()


@pytest.fixture
async def open_database() -> AsyncIterator[Callable[[str, int], Awaitable[Database]]]:
    databases: list[Database] = []

    async def open_(conninfo: str, connections: int = 8) -> Database:
        databases.append(Database(conninfo, connections))
        await databases[-1].start()
        return databases[-1]

    yield open_
    for database in databases:
        await database.aclose()


def queue_on(database: Database, name: str) -> PostgresQueue:
    return assemble(database, SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), name)


async def works_again(call: Callable[[], Awaitable[object]]) -> None:
    """Repeat ``call``, each time with a limit, until it succeeds."""
    failed: float | None = None
    while True:
        try:
            async with asyncio.timeout(ANSWERS_S):
                await call()
        except DatabaseUnavailable:
            failed = failed or time.monotonic()
            await asyncio.sleep(0.1)
        else:
            assert failed is None or time.monotonic() - failed < ANSWERS_S
            return


@pytest.mark.long
async def test_when_all_connections_fall_silent_everything_answers_again_within_10_s(
    proxy: tuple[Proxy, str], open_database: Callable[..., Awaitable[Database]]
) -> None:
    between, conninfo = proxy
    database, own = await open_database(conninfo), await open_database(conninfo, 2)
    queue = queue_on(database, "one")
    await queue.start()
    election = LeaderElection(database, SystemClock(), "one")
    keys = KeyRing(own, SystemClock(), keep_s=0.0)
    key = await keys.create("studio")
    assert await election.leads("demand")
    await asyncio.sleep(0.1)

    between.freeze()
    unknown = KeyRing(own, SystemClock())
    await asyncio.gather(
        *(works_again(lambda: unknown.authenticate(f"Key {key}")) for _ in range(4)),
        *(works_again(lambda: queue.submit(new())) for _ in range(12)),
        works_again(queue.demand),
        works_again(lambda: election.leads("demand")),
        works_again(lambda: election.leads("another")),
    )
    await queue.aclose()


async def test_a_process_that_stood_still_takes_the_answer_that_came_meanwhile(
    conninfo: str,
) -> None:
    database = Database(conninfo, connections=1, limit_s=0.5)
    await database.start()
    try:
        ((session,),) = await database.rows("SELECT pg_backend_pid()")
        asyncio.get_running_loop().call_later(0.05, time.sleep, 1.0)
        assert await database.rows("SELECT pg_backend_pid() FROM pg_sleep(0.2)") == [(session,)]
        assert await database.rows("SELECT pg_backend_pid()") == [(session,)]
    finally:
        await database.aclose()


async def stand_still_beside(database: Database, statement: str) -> asyncio.Task[object]:
    """Run a statement on the only connection; soon the process stands still for a second."""
    slow = asyncio.create_task(database.rows(statement))
    await asyncio.sleep(0.1)
    asyncio.get_running_loop().call_later(0.1, time.sleep, 1.0)
    return slow


@pytest.fixture
async def impatient(
    conninfo: str,
    monkeypatch: pytest.MonkeyPatch,
    open_database: Callable[[str, int], Awaitable[Database]],
) -> Database:
    """One connection, for which statements wait half a second."""
    monkeypatch.setattr("serve_app.postgres.database.POOL_TIMEOUT_S", 0.5)
    return await open_database(conninfo, 1)


async def test_a_process_that_stood_still_takes_a_connection_that_became_free_meanwhile(
    impatient: Database,
) -> None:
    slow = await stand_still_beside(impatient, "SELECT pg_sleep(0.3)")
    assert await impatient.rows("SELECT 1") == [(1,)]
    await slow


async def test_a_connection_that_never_becomes_free_is_waited_for_no_longer(
    impatient: Database,
) -> None:
    slow = await stand_still_beside(impatient, "SELECT pg_sleep(3)")
    with pytest.raises(DatabaseUnavailable, match=r"0\.50 sec"):
        await impatient.rows("SELECT 1")
    assert not slow.done()
    await slow


async def test_a_connection_that_reached_its_limit_is_closed_also_if_its_answer_came_then(
    conninfo: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        async with AnswerLimit(connection, 0.1):
            await connection.execute("SELECT 1")
            await asyncio.sleep(3.0)  # the limit passes, and nothing is read any more
        assert connection.closed


async def test_a_call_that_waits_for_a_repair_fails_as_unavailable_if_the_database_is_closed(
    proxy: tuple[Proxy, str],
) -> None:
    between, conninfo = proxy
    database = Database(conninfo, connections=1, limit_s=1.0)
    await database.start()
    await database.check()
    between.blackhole()
    with pytest.raises(DatabaseUnavailable):
        await database.rows("SELECT 1")
    waiting = asyncio.create_task(database.rows("SELECT 1"))
    await asyncio.sleep(0)
    await database.aclose()
    with pytest.raises(DatabaseUnavailable):
        await waiting


async def test_a_key_that_was_checked_lately_is_accepted_while_the_database_is_silent(
    proxy: tuple[Proxy, str], open_database: Callable[..., Awaitable[Database]]
) -> None:
    between, conninfo = proxy
    clock = FakeClock()
    keys = KeyRing(await open_database(conninfo, 2), clock)
    key = await keys.create("studio")
    await keys.authenticate(f"Key {key}")
    between.blackhole()
    clock.advance(30.0)
    async with asyncio.timeout(ANSWERS_S):
        assert (await keys.authenticate(f"Key {key}")).tenant == "studio"
    clock.advance(40.0)
    with pytest.raises(DatabaseUnavailable):
        await keys.authenticate(f"Key {key}")


async def test_a_listener_whose_connection_fell_silent_hears_again(
    proxy: tuple[Proxy, str], conninfo: str, open_database: Callable[..., Awaitable[Database]]
) -> None:
    between, through_proxy = proxy
    heard: asyncio.Queue[set[str]] = asyncio.Queue()
    gaps: list[float] = []
    listener = Notifier(await open_database(through_proxy), "listener", SystemClock())
    listener.start(lambda news: heard.put_nowait(news.changed), lambda: gaps.append(0.0))
    sender = Notifier(await open_database(conninfo), "sender", SystemClock())
    sender.start(lambda _: None, lambda: None)
    await until(lambda: listener.listening and sender.listening)
    between.freeze()
    before = len(gaps)
    await until(lambda: len(gaps) > before)
    sender.notify(changed=["r1"])
    async with asyncio.timeout(60.0):
        while "r1" not in await heard.get():
            pass
    await listener.aclose()
    await sender.aclose()


async def until(condition: Callable[[], bool], within_s: float = ANSWERS_S) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  a task of the product changes it
            await asyncio.sleep(0.02)


async def test_a_sender_of_notifications_survives_an_error_that_nobody_expected(
    conninfo: str, open_database: Callable[..., Awaitable[Database]]
) -> None:
    class Failing(Database):
        fails = 1

        async def rows(
            self, sql: str, *params: object, **named: object
        ) -> list[tuple[object, ...]]:
            if "pg_notify" in sql and "r1" in str(params) and self.fails:
                self.fails -= 1
                raise psycopg.errors.InternalError("unexpected")
            return await super().rows(sql, *params, **named)  # type: ignore[arg-type]

    failing = Failing(conninfo)
    await failing.start()
    heard: list[Notification] = []
    listener, sender = (
        Notifier(await open_database(conninfo), "a", SystemClock()),
        Notifier(failing, "b", SystemClock()),
    )
    listener.start(heard.append, lambda: None)
    sender.start(lambda _: None, lambda: None)
    await until(lambda: listener.listening and sender.listening)
    sender.notify(changed=["r1"])
    await until(lambda: failing.fails == 0)
    sender.notify(changed=["r2"])
    await until(lambda: any("r2" in message.changed for message in heard))
    await listener.aclose()
    await sender.aclose()
    await failing.aclose()


async def test_a_server_that_only_reads_is_unavailable_until_it_can_write(
    server: str, conninfo: str, open_database: Callable[..., Awaitable[Database]]
) -> None:
    database = await open_database(conninfo)
    queue = queue_on(database, "one")
    await queue.start()
    name = psycopg.conninfo.conninfo_to_dict(conninfo)["dbname"]
    with psycopg.connect(superuser_of(server), autocommit=True) as operator:
        operator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        try:
            for _ in range(3):
                with pytest.raises(DatabaseUnavailable):
                    await queue.submit(new())
                with pytest.raises(DatabaseUnavailable):
                    await database.check()
            await until(lambda: "only reads" in str(_reason(database)))
        finally:
            operator.execute("SET default_transaction_read_only = off")
            operator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await works_again(lambda: queue.submit(new()))
    await database.check()
    await queue.aclose()


def _reason(database: Database) -> str | None:
    return database._unavailable_reason


async def test_the_start_waits_for_a_database_that_is_not_there_yet(
    proxy: tuple[Proxy, str], conninfo: str
) -> None:
    between, through_proxy = proxy
    between.blackhole()
    waiting = asyncio.create_task(wait_until_reachable(through_proxy))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    between.heal()
    async with asyncio.timeout(ANSWERS_S):
        await waiting


async def test_the_start_does_not_wait_for_a_database_that_will_never_be_there(
    conninfo: str,
) -> None:
    with pytest.raises(Misconfigured, match="does not exist"):
        await wait_until_reachable(f"{conninfo} dbname=missing")


async def test_the_doctor_says_so_if_the_server_takes_its_connections_and_falls_silent(
    proxy: tuple[Proxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    between, conninfo = proxy
    check = diagnostics._check_create_privilege

    async def silent(connection: psycopg.AsyncConnection) -> None:
        between.blackhole()
        await check(connection)

    monkeypatch.setattr(diagnostics, "_check_create_privilege", silent)
    async with asyncio.timeout(60.0):
        with pytest.raises(DatabaseUnavailable, match="no answer within"):
            await diagnostics.examine(conninfo)


async def test_one_process_leads_and_another_takes_over_when_it_is_gone(
    conninfo: str, open_database: Callable[..., Awaitable[Database]]
) -> None:
    database = await open_database(conninfo)
    clocks = FakeClock(), FakeClock()
    first, second = (
        LeaderElection(database, clock, name)
        for clock, name in zip(clocks, ("first", "second"), strict=True)
    )
    assert await first.leads("demand")
    assert not await second.leads("demand")
    await database.rows(
        "UPDATE leaders SET until = until - %(s)s * interval '1 second'", {"s": LEADS_S + 1}
    )
    assert await second.leads("demand")
    clocks[0].advance(LEADS_S)
    assert not await first.leads("demand")
    await second.aclose()
    assert await first.leads("demand")


async def test_leadership_that_is_asked_for_all_the_time_is_renewed_in_one_statement(
    conninfo: str, open_database: Callable[..., Awaitable[Database]]
) -> None:
    database, clock = await open_database(conninfo), FakeClock()
    election = LeaderElection(database, clock, "one")

    async def ends() -> list[datetime]:
        return [row[0] for row in await database.rows("SELECT until FROM leaders ORDER BY name")]

    assert await election.led_of(("demand", "left"))
    clock.advance(RENEW_S / 2)
    assert await election.leads("often")
    demand, left, often = await ends()
    assert often - demand == timedelta(seconds=RENEW_S / 2)  # since it was asked for
    clock.advance(RENEW_S)
    assert await election.leads("often")
    assert (await ends())[:2] == [demand, left]  # nobody asks for them any more


async def test_periodic_work_of_a_leader_is_done_by_one_process(
    conninfo: str, open_database: Callable[..., Awaitable[Database]]
) -> None:
    database, done = await open_database(conninfo), list[str]()

    def worker(name: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            done.append(name)

        return LeaderElection(database, FakeClock(), name).on_leader("retention", 60.0, work)

    workers = [worker(name) for name in ("first", "second")]
    for _ in range(2):
        for run in workers:
            await run()
    assert done == ["first", "first"]
    await database.rows("UPDATE leaders SET until = now() - interval '1 second'")
    await workers[1]()
    assert done == ["first", "first", "second"]
