"""Each metric of the queue moves by the event that it counts: real PostgreSQL, real scrape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import LeaseKey, Presence, ReplicaStage
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.postgres.installation import record_backup
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.state import replicas
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import list_migrations
from serve_app.settings import TenantLimits
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics
from tests.contract.waiting import eventually
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, QUICK
from tests.queue.requests import POOL, TENANT, ask, failure, lease, make_finish, new, report
from tests.telemetry.reading import Scrapes, scraping

ENDPOINT = "fal-ai/flux/schnell"
NODE = "10.0.0.7"
SESSION_FRAME = "0195a1b2-0000-7000-8000-000000000001"
ABOUT = {"endpoint": ENDPOINT, "pool": POOL}
Started = tuple[PostgresQueue, Scrapes]


class Processes:
    """Starts ingress processes, each with its own metrics."""

    def __init__(self, conninfo: str, stack: AsyncExitStack) -> None:
        self._conninfo = conninfo
        self._stack = stack

    async def __call__(self, limits: QueueLimits = LONG_LEASES, name: str = "one") -> Started:
        metrics = Metrics(CollectorRegistry())
        database = Database(self._conninfo, metrics=metrics.database.of("queue"))
        await database.start()
        self._stack.push_async_callback(database.aclose)
        queue = assemble(
            *(database, SystemClock(), FakeTerms(), limits, FakeLiveness(), name),
            metrics=metrics.queue,
        )
        await queue.start()
        self._stack.push_async_callback(queue.aclose)
        return queue, await self._stack.enter_async_context(scraping(metrics))


@pytest.fixture
async def start(conninfo: str) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as stack:
        yield Processes(conninfo, stack)


async def test_waits_and_whole_times_are_measured(start: Processes) -> None:
    queue, scrapes = await start()
    await queue.submit(new())
    await asyncio.sleep(0.1)
    lease_key = (await lease(queue)).key
    assert await scrapes.value("wait_seconds_count", **ABOUT) == 1
    waited_s = await scrapes.value("wait_seconds_sum", **ABOUT) or 0.0
    assert waited_s >= 0.1
    assert await scrapes.value("total_seconds_count", **ABOUT) is None
    await queue.finish(make_finish(lease_key))
    assert await scrapes.value("total_seconds_count", **ABOUT) == 1
    assert (await scrapes.value("total_seconds_sum", **ABOUT) or 0.0) >= waited_s


@pytest.mark.long
async def test_attempts_are_counted_by_their_end_and_failures_by_code(start: Processes) -> None:
    queue, scrapes = await start()

    async def attempts(end: str) -> float | None:
        return await scrapes.value("attempts_total", pool=POOL, end=end)

    await queue.submit(new())
    await queue.hand_back((await lease(queue)).key, "r1", "it drains")
    assert await attempts("hand_back") == 1
    await queue.finish(make_finish((await lease(queue)).key, failure(retryable=True)))
    assert await attempts("retry") == 1
    assert await scrapes.value("failures_total", endpoint=ENDPOINT, code="pipeline_failed") is None
    await queue.finish(make_finish((await lease(queue)).key, failure("out_of_memory")))
    assert await attempts("failed") == 1
    assert await scrapes.value("failures_total", endpoint=ENDPOINT, code="out_of_memory") == 1
    await queue.submit(new())
    await queue.finish(make_finish((await lease(queue)).key))
    assert await attempts("succeeded") == 1
    # The first attempt of each request has a wait, the others do not.
    assert await scrapes.value("wait_seconds_count", **ABOUT) == 2


@pytest.mark.long
async def test_attempts_that_did_not_end_well_are_counted_by_the_node_of_their_replica(
    start: Processes,
) -> None:
    queue, scrapes = await start(QUICK)

    async def leased() -> LeaseKey:
        await queue.submit(new())
        (granted,) = (await queue.ask(ask(node=NODE))).leases
        await queue.parts.state.replicas.flush()
        await queue.report(report(granted.key))
        return granted.key

    of = {"node": NODE, "pool": POOL}
    await queue.finish(make_finish(await leased()))
    await queue.finish(make_finish(await leased(), failure("out_of_memory")))
    assert await scrapes.value("node_failures_total", end="failed", **of) == 1
    assert await scrapes.value("node_failures_total", end="interrupted", **of) == 0
    await leased()  # and it is not heard of again
    await scrapes.until(lambda n: n == 1, "node_failures_total", end="interrupted", **of)


async def test_usage_is_counted_by_the_tenants_that_the_settings_name(start: Processes) -> None:
    named = {tenant: TenantLimits() for tenant in (TENANT, "idle")}
    queue, scrapes = await start(replace(LONG_LEASES, tenants=named))

    async def finish(tenant: str, run_s: float) -> None:
        await queue.submit(new(tenant=tenant))
        lease_key = (await lease(queue)).key
        await queue.finish(make_finish(lease_key, Outcome(output={}, usage=Usage(run_s, 4, 1.0))))

    await finish(TENANT, 1.5)
    await finish("bob", 2.0)
    await finish("cleo", 3.0)
    await queue.submit(new())
    session = (await lease(queue)).key
    for _ in range(2):  # the frame is counted once
        await queue.record_frame(session, SESSION_FRAME, State.SUCCEEDED, Usage(0.25, 1, 0.1))
    await queue.hand_back(session, "r1", "it drains")  # no usage: the request has not ended
    usage = {
        dict(labels)["tenant"]: value
        for (name, labels), value in (await scrapes.read()).items()
        if name == "darkroom_usage_seconds_total"
    }
    assert usage == {TENANT: 1.75, "other": 5.0}


@pytest.mark.long
async def test_the_gpu_memory_of_replicas_is_shown_while_they_poll(
    start: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, scrapes = await start(replace(LONG_LEASES, ask_wait_s=0.01))
    await queue.ask(replace(ask(replica="gpu"), free_bytes=3, device_bytes=8))
    await queue.ask(ask(replica="cpu"))
    await scrapes.until(lambda n: n == 8, "gpu_memory_bytes", pool=POOL, replica="gpu")
    await scrapes.until(lambda n: n == 3, "gpu_memory_free_bytes", pool=POOL, replica="gpu")
    assert await scrapes.value("gpu_memory_bytes", pool=POOL, replica="cpu") is None
    await queue.ask(replace(ask(replica="gpu"), free_bytes=2, device_bytes=8))
    await scrapes.until(lambda n: n == 2, "gpu_memory_free_bytes", pool=POOL, replica="gpu")
    monkeypatch.setattr(replicas, "POLLS_WITHIN_S", -1.0)  # as if it had not polled for long
    while await scrapes.value("gpu_memory_bytes", pool=POOL, replica="gpu") is not None:
        pass


@pytest.mark.long
async def test_replicas_are_counted_by_the_weights_that_they_hold(start: Processes) -> None:
    queue, scrapes = await start(replace(LONG_LEASES, ask_wait_s=0.01))
    labels = {"pool": POOL, "endpoint": ENDPOINT}
    await queue.ask(replace(ask(replica="r1"), hot=(ENDPOINT,), warm=("a/b",)))
    await queue.ask(replace(ask(replica="r2"), hot=(ENDPOINT,)))
    await scrapes.until(lambda n: n == 2, "weights_replicas", **labels, place="device")
    of_other = {"pool": POOL, "endpoint": "a/b", "place": "host"}
    assert await scrapes.value("weights_replicas", **of_other) == 1
    await queue.ask(replace(ask(replica="r1"), warm=(ENDPOINT,)))
    await scrapes.until(lambda n: n == 1, "weights_replicas", **labels, place="device")
    assert await scrapes.value("weights_replicas", **labels, place="host") == 1
    assert await scrapes.value("weights_replicas", **of_other) is None


@pytest.mark.long
async def test_weights_that_a_replica_loads_are_counted_by_where_they_were(
    start: Processes,
) -> None:
    queue, scrapes = await start(replace(LONG_LEASES, ask_wait_s=0.01))
    labels = {"pool": POOL, "endpoint": ENDPOINT}
    await queue.ask(replace(ask(replica="moved"), hot=(ENDPOINT,)))  # loaded before it polled here
    await queue.ask(ask(replica="r1"))
    for hot, warm in (((ENDPOINT,), ()), ((ENDPOINT,), ()), ((), (ENDPOINT,)), ((ENDPOINT,), ())):
        await queue.ask(replace(ask(replica="r1"), hot=hot, warm=warm))
    assert await scrapes.value("weights_loads_total", **labels, source="disk") == 1
    assert await scrapes.value("weights_loads_total", **labels, source="host") == 1


async def test_the_memory_of_a_replica_comes_with_its_polls(
    start: Processes, conninfo: str
) -> None:
    queue, _ = await start(replace(LONG_LEASES, ask_wait_s=0.01))
    database = Database(conninfo)
    await database.start()

    async def until(**figures: tuple[int | None, int | None]) -> None:
        async def shown() -> bool:
            rows = await replicas.roster(database)
            memory = {r["replica_id"]: (r["memory_used"], r["memory_total"]) for r in rows}
            return memory == figures

        await eventually(shown)

    try:
        await queue.announce(Presence("new", "actor-new", POOL, ReplicaStage.STARTING))
        await queue.ask(replace(ask(replica="gpu"), free_bytes=3 * 2**33, device_bytes=5 * 2**33))
        await queue.ask(replace(ask(replica="cpu"), process_bytes=2**31, host_bytes=2**34))
        memory = {"gpu": (2 * 2**33, 5 * 2**33), "cpu": (2**31, 2**34), "new": (None, None)}
        await until(**memory)
        await queue.announce(Presence("gpu", "actor-gpu", POOL, ReplicaStage.DRAINING))
        await queue.ask(replace(ask(replica="cpu"), process_bytes=2**32, host_bytes=2**34))
        await until(**memory | {"cpu": (2**32, 2**34)})
    finally:
        await database.aclose()


async def test_the_status_of_a_replica_names_the_weights_that_it_last_named(
    start: Processes, conninfo: str
) -> None:
    queue, _ = await start(replace(LONG_LEASES, ask_wait_s=0.01))
    database = Database(conninfo)
    await database.start()

    async def until(stage: str, hot: list[str], warm: list[str]) -> None:
        async def shown() -> bool:
            rows = await replicas.roster(database)
            return [(r["stage"], r["hot"], r["warm"]) for r in rows] == [(stage, hot, warm)]

        await eventually(shown)

    try:
        await queue.ask(replace(ask(replica="r1"), hot=("a/b", "a/c"), warm=("d/e",)))
        await until("ready", ["a/b", "a/c"], ["d/e"])
        await queue.ask(replace(ask(replica="r1"), hot=("a/c",)))
        await until("ready", ["a/c"], [])
        # A poll stays open while a request runs: its reports say what was loaded meanwhile.
        running = report(LeaseKey(new().id, 1), replica="r1")
        await queue.report(replace(running, hot=("a/b",)))
        await until("ready", ["a/b"], [])
        await queue.report(running)  # of an earlier version
        await queue.ask(replace(ask(replica="r1"), hot=("a/c",)))
        await until("ready", ["a/c"], [])
        await queue.announce(Presence("r1", "actor-r1", POOL, ReplicaStage.DRAINING))
        await until("draining", ["a/c"], [])
    finally:
        await database.aclose()


@pytest.mark.long
async def test_a_request_that_expires_in_the_queue_is_a_failure(start: Processes) -> None:
    queue, scrapes = await start()
    await queue.submit(new(start_within_s=0.01))
    await scrapes.until(lambda n: n == 1, "failures_total", endpoint=ENDPOINT, code="expired")


async def test_a_cancelled_request_is_no_failure(start: Processes) -> None:
    queue, scrapes = await start()
    request = await queue.submit(new())
    await queue.cancel(TENANT, request.id)
    await scrapes.until(lambda n: n == 1, "requests_total", endpoint=ENDPOINT, state="cancelled")
    assert not [name for name, _ in await scrapes.read() if name == "darkroom_failures_total"]


@pytest.mark.long
async def test_a_lease_that_runs_out_and_the_late_finish_are_counted(start: Processes) -> None:
    queue, scrapes = await start(QUICK)
    await queue.submit(new())
    lease_key = (await lease(queue)).key
    await scrapes.until(lambda n: n == 1, "leases_expired_total", pool=POOL)
    assert await scrapes.value("attempts_total", pool=POOL, end="interrupted") == 1
    await queue.finish(make_finish(lease_key))
    assert await scrapes.value("fenced_total", call="finish") == 1
    await queue.report(report(lease_key))
    assert await scrapes.value("fenced_total", call="report") == 1
    await queue.hand_back(lease_key, "r1", "too late")
    assert await scrapes.value("fenced_total", call="hand_back") == 1


async def test_a_repeated_finish_is_not_fenced(start: Processes) -> None:
    queue, scrapes = await start()
    await queue.submit(new())
    lease_key = (await lease(queue)).key
    for _ in range(2):
        await queue.finish(make_finish(lease_key))
    assert await scrapes.value("fenced_total", call="finish") is None


async def test_a_lease_whose_poll_is_gone_is_counted_as_undone(start: Processes) -> None:
    queue, scrapes = await start()
    waiters = queue.parts.state.waiters
    await queue.submit(new())
    hand_out = queue.parts.polls.hand_out

    def too_late(waiter, request, input) -> None:  # type: ignore[no-untyped-def]
        waiter.gone = True
        hand_out(waiter, request, input)

    queue.parts.polls.hand_out = too_late  # type: ignore[method-assign]
    asking = asyncio.create_task(queue.ask(ask()))
    await scrapes.until(lambda n: n >= 1, "attempts_total", pool=POOL, end="undo")
    queue.parts.polls.hand_out = hand_out  # type: ignore[method-assign]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert waiters.idle()[POOL] == (0, 0)


@pytest.mark.long
async def test_idle_slots_are_shown_and_return_to_zero(start: Processes) -> None:
    queue, scrapes = await start(replace(LONG_LEASES, ask_wait_s=60.0))
    asking = asyncio.create_task(queue.ask(ask(3)))
    await scrapes.until(lambda n: n == 3, "idle_slots", pool=POOL)
    await scrapes.until(lambda n: n == 1, "polls_waiting", pool=POOL)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await scrapes.until(lambda n: n == 0, "idle_slots", pool=POOL)
    await scrapes.until(lambda n: n == 0, "polls_waiting", pool=POOL)


async def test_replicas_are_shown_by_stage_and_return_to_zero(start: Processes) -> None:
    queue, scrapes = await start()

    async def announce(stage: ReplicaStage) -> None:
        await queue.announce(Presence("r1", "actor-r1", POOL, stage))

    await announce(ReplicaStage.STARTING)
    await scrapes.until(lambda n: n == 1, "replicas", pool=POOL, stage="starting")
    await announce(ReplicaStage.READY)
    await scrapes.until(lambda n: n == 1, "replicas", pool=POOL, stage="ready")
    await scrapes.until(lambda n: n == 0, "replicas", pool=POOL, stage="starting")


@pytest.mark.long
async def test_a_periodic_task_shows_its_last_success_and_its_failures(
    start: Processes, conninfo: str
) -> None:
    _, scrapes = await start()
    name = "task_last_success_timestamp_seconds"
    await scrapes.until(lambda at: at > 0, name, task="settle_coalesced")
    first = await scrapes.value(name, task="settle_coalesced") or 0.0
    await scrapes.until(lambda at: at > first, name, task="settle_coalesced")
    assert (await scrapes.value("task_seconds_count", task="settle_coalesced") or 0) >= 2
    assert await scrapes.value("task_failures_total", task="count_listeners") is None
    with psycopg.connect(conninfo, autocommit=True) as operator:
        operator.execute("ALTER TABLE progress RENAME TO hidden")
        try:
            await scrapes.until(lambda n: n > 0, "task_failures_total", task="forget_progress")
        finally:
            operator.execute("ALTER TABLE hidden RENAME TO progress")


@pytest.mark.long
async def test_one_process_shows_the_sizes_of_the_tables(start: Processes, conninfo: str) -> None:
    first, scrapes = await start(name="one")
    await scrapes.until(lambda n: n > 0, "table_bytes", table="requests")
    _, others = await start(name="two")
    await others.until(lambda version: version == list_migrations()[-1].number, "schema_version")
    assert await others.value("table_bytes", table="requests") is None
    assert await others.value("task_last_success_timestamp_seconds", task="measure_tables") is None
    assert (await others.value("database_transaction_id_age") or 0) > 0
    with psycopg.connect(conninfo, autocommit=True) as operator:
        for _ in range(3):
            await first.submit(new())
        operator.execute("DELETE FROM requests")
        async with asyncio.timeout(120):
            # Connections tell the statistics of their inserts later, perhaps after those of a
            # vacuum, which then has to come again.
            while True:
                operator.execute("VACUUM ANALYZE requests")
                operator.execute("SELECT pg_stat_force_next_flush()")
                await first.parts.tables.measure()
                if await scrapes.value("table_rows", table="requests") == 0:
                    break
                await asyncio.sleep(0.1)
    assert (await scrapes.value("table_last_vacuum_timestamp_seconds", table="requests") or 0) > 0


async def test_a_process_that_no_longer_leads_drops_the_sizes(
    start: Processes, conninfo: str
) -> None:
    queue, scrapes = await start(name="one")
    assert await queue.parts.tables.measure()
    assert (await scrapes.value("table_bytes", table="requests") or 0) > 0
    with psycopg.connect(conninfo, autocommit=True) as operator:
        operator.execute(
            "UPDATE leaders SET holder = 'two', until = now() + interval '1 hour' "
            "WHERE name = 'table sizes'"
        )

    async def dropped() -> bool:
        queue.parts.election._renew_at.clear()  # a renewal under way sets it again
        await queue.parts.tables.measure()
        return await scrapes.value("table_bytes", table="requests") is None

    await eventually(dropped)


async def test_the_last_backup_is_shown(start: Processes, database: Database) -> None:
    queue, scrapes = await start()
    await queue.parts.tables.check()
    assert await scrapes.value("last_backup_timestamp_seconds") == 0
    await record_backup(database, "2026-11-27T10:00:00.5+00:00")
    await queue.parts.tables.check()
    at = datetime(2026, 11, 27, 10, 0, 0, 500_000, UTC).timestamp()
    assert await scrapes.value("last_backup_timestamp_seconds") == at


@pytest.mark.long
async def test_recovery_is_armed_once_the_database_has_answered_for_a_lease_period(
    start: Processes,
) -> None:
    _, waiting = await start(LONG_LEASES, "one")
    _, armed = await start(QUICK, "two")
    await armed.until(lambda value: value == 1, "recovery_armed")
    await waiting.until(lambda value: value == 0, "recovery_armed")


async def test_statements_are_measured_by_name(start: Processes) -> None:
    queue, scrapes = await start()
    before = await scrapes.value("database_statement_seconds_count", statement="insert")
    await queue.submit(new())
    after = await scrapes.value("database_statement_seconds_count", statement="insert")
    assert (before, after) == (None, 1)


@pytest.mark.long
async def test_connections_are_shown_in_use_waiting_and_refused(
    conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine that stands still meanwhile, it would wait for a connection once more.
    monkeypatch.setattr("serve_app.postgres.database.STOOD_STILL", 100.0)
    metrics = Metrics(CollectorRegistry())
    database = Database(conninfo, connections=1, metrics=metrics.database.of("queue"))
    of = {"connections": "queue"}
    async with scraping(metrics) as scrapes:
        await database.start()
        assert await scrapes.value("database_connections_max", **of) == 1
        with psycopg.connect(conninfo) as blocker:
            blocker.execute("LOCK TABLE costs")
            blocked = [asyncio.create_task(database.rows("SELECT 1 FROM costs")) for _ in range(2)]
            await scrapes.until(lambda n: n == 1, "database_connections_used", **of)
            await scrapes.until(lambda n: n == 1, "database_connections_waiting", **of)
            results = await asyncio.gather(*blocked, return_exceptions=True)
        assert all(isinstance(result, DatabaseUnavailable) for result in results)
        unavailable = "database_unavailable_total"
        assert await scrapes.value(unavailable, reason="busy", **of) == 1  # got no connection
        assert await scrapes.value(unavailable, reason="slow", **of) == 1  # waited for the lock
        await scrapes.until(lambda n: n == 0, "database_connections_used", **of)
        await scrapes.until(lambda n: n == 0, "database_connections_waiting", **of)
        await database.aclose()
        assert await scrapes.value("database_connections", **of) == 0


async def test_a_deadlock_that_is_retried_is_counted(conninfo: str) -> None:
    metrics = Metrics(CollectorRegistry())
    database = Database(conninfo, metrics=metrics.database.of("queue"))
    await database.start()
    with psycopg.connect(conninfo, autocommit=True) as operator:
        operator.execute("CREATE TABLE twice AS SELECT 1 AS tries")
        operator.execute(
            "CREATE SEQUENCE tries; CREATE FUNCTION once() RETURNS integer LANGUAGE plpgsql AS $$ "
            "BEGIN IF nextval('tries') = 1 THEN RAISE deadlock_detected; END IF; "
            "RETURN 7; END $$"
        )
        try:
            async with scraping(metrics) as scrapes:
                assert await database.rows("SELECT once()") == [(7,)]
                assert await scrapes.value("database_retries_total", connections="queue") == 1
        finally:
            operator.execute("DROP FUNCTION once(); DROP SEQUENCE tries; DROP TABLE twice")
            await database.aclose()


# Batches and notifications


@pytest.mark.long
async def test_calls_that_share_a_statement_are_counted_together(start: Processes) -> None:
    queue, scrapes = await start()
    await asyncio.gather(*(queue.submit(new()) for _ in range(10)))
    granted = [(await lease(queue)).key for _ in range(10)]
    await asyncio.gather(*(queue.finish(make_finish(lease_key)) for lease_key in granted))
    for call in ("submit", "finish"):
        assert await scrapes.value("batch_size_sum", call=call) == 10
        assert 1 <= (await scrapes.value("batch_size_count", call=call) or 0) < 10


@pytest.mark.long
async def test_messages_between_processes_are_counted_with_their_delay(start: Processes) -> None:
    first, sent = await start()
    two, received = await start(name="two")

    async def listening() -> bool:
        return first.parts.state.notifier.listening and two.parts.state.notifier.listening

    await eventually(listening, 30.0)
    await first.submit(new())

    async def arrived() -> bool:
        return (await received.value("notification_seconds_count") or 0) >= 1

    await eventually(arrived, 30.0)
    assert (await received.value("notifications_total", direction="received") or 0) >= 1
    assert (await sent.value("notifications_total", direction="sent") or 0) >= 1
    assert (await received.value("notification_seconds_sum") or 0.0) >= 0.0
