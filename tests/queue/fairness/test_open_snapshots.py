"""Leasing while a snapshot is open for long, such as that of a backup."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from serve_app.domain.lease import LeasePreference, LeftOut
from serve_app.domain.request import Priority
from serve_app.postgres.database import Database
from serve_app.queue.fairness.open_snapshots import (
    MAX_AGE_S,
    MIN_TRANSACTIONS,
    WRITE_EVERY_S,
    Front,
    OpenSnapshots,
)
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.insert import DirectLease, EncodedInput, NewRow, insert_requests
from serve_app.queue.transactions.lease import LeaseResult, lease_queued
from serve_app.settings import EndpointLimits, TenantLimits
from tests.fakes.clock import FakeClock
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, ask, new

TENANTS = ("ann", "bob", "eve", "joe")
SLOTS, LEASINGS, PER_S = 4, 1000, 100
RENEWED_S = 1.3  # until the bound of what runs is renewed, with its margin
LANES = """
INSERT INTO fair_lanes (pool, tenant, rested) SELECT %(pool)s, unnest(%(tenants)s::text[]), false
ON CONFLICT DO NOTHING
"""
FILL = """
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input,
                      ranked_at, expected_s)
SELECT gen_random_uuid(), (%(tenants)s::text[])[1 + n % 4], 'noop', '0', %(pool)s, 1, 'queued',
       '{}', now() - interval '1 hour' + n * interval '10 ms', 1 + (7 * n % 13) / 10.0 + n * 0.001
FROM generate_series(1, %(count)s) n
"""
END = """
UPDATE requests SET state = 'succeeded', outcome = '{}', lease_until = NULL
WHERE id = ANY(%(ids)s::uuid[])
"""
PAGES = """
SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
FROM pg_statio_user_tables WHERE relname IN ('requests', 'fair_lanes', 'running_counts')
"""


@pytest.fixture
async def quiet_database(empty: str) -> AsyncIterator[Database]:
    """A database whose tables only the test reads, by one connection."""
    await migrate(empty)
    with psycopg.connect(empty, autocommit=True) as connection:
        for table in ("requests", "fair_lanes"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
        connection.execute("ALTER ROLE CURRENT_USER IN DATABASE empty SET synchronous_commit = off")
    opened = Database(empty, connections=1)
    await opened.start()
    await fill(opened, SLOTS * LEASINGS + 2000)
    await opened.rows("ANALYZE requests, fair_lanes")
    yield opened
    await opened.aclose()


async def fill(database: Database, count: int) -> None:
    await database.rows(LANES, {"pool": POOL, "tenants": [*TENANTS]})
    await database.rows(FILL, {"pool": POOL, "tenants": [*TENANTS], "count": count})


async def pages_of(database: Database) -> int:
    await database.rows("SELECT pg_stat_force_next_flush()")
    ((pages,),) = await database.rows(PAGES)
    return pages


class Leaser:
    """Leases from a pool as an ingress process does, ``PER_S`` times a second."""

    def __init__(self, database: Database, limits: QueueLimits, left_out: LeftOut) -> None:
        self._database, self._limits, self._left_out = database, limits, left_out
        self._clock = FakeClock()
        self.snapshots = OpenSnapshots(database, self._clock)
        self._charges: Mapping[str, float] = {}
        self._leased = 0

    async def __call__(self) -> LeaseResult:
        if self._leased % PER_S == 0:
            await self.snapshots.look()
        self._leased += 1
        self._clock.advance(1 / PER_S)
        leasing = await lease_queued(
            *(self._database, POOL, [DirectLease("r1", "a1")] * SLOTS),
            *(LeasePreference(left_out=self._left_out), self._limits, self._charges),
            front=self.snapshots.front(POOL, len(self._charges)),
        )
        assert len(leasing.grants) == SLOTS
        self._charges = leasing.unwritten
        self.snapshots.note_leasing(POOL, leasing.served, [])
        await self._database.rows(
            END, {"ids": [granted.request.id for _, granted, _ in leasing.grants]}
        )
        return leasing

    async def pages(self) -> float:
        """Mean number of pages of a leasing."""
        before, leasings = await pages_of(self._database), 10
        for _ in range(leasings):
            await self()
        return (await pages_of(self._database) - before) / leasings


LONG = pytest.mark.long


@pytest.mark.long
@pytest.mark.parametrize(
    ("limits", "left_out"),
    [
        pytest.param(LONG_LEASES, LeftOut(), id="plain"),
        pytest.param(LONG_LEASES, LeftOut(frozenset({"sdxl"})), id="leaving out", marks=LONG),
        pytest.param(
            replace(LONG_LEASES, tenants={"zoe": TenantLimits(max_running=1)}),
            LeftOut(),
            id="another tenant limited",
            marks=LONG,
        ),
        pytest.param(replace(LONG_LEASES, max_running_per_tenant=6), LeftOut(), id="all limited"),
        pytest.param(
            replace(LONG_LEASES, endpoints={"noop": EndpointLimits(max_running=6)}),
            LeftOut(),
            id="endpoint limited",
            marks=LONG,
        ),
    ],
)
async def test_leasing_beside_an_open_snapshot_reads_at_most_twice_the_pages(
    quiet_database: Database, limits: QueueLimits, left_out: LeftOut
) -> None:
    leaser = Leaser(quiet_database, limits, left_out)
    await leaser()
    fresh = await leaser.pages()
    with psycopg.connect(quiet_database.conninfo) as backup:
        backup.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        backup.execute("SELECT count(*) FROM halts")
        backup.execute("SET idle_in_transaction_session_timeout = 0")
        leaser.snapshots.note_transactions(MIN_TRANSACTIONS)
        for _ in range(LEASINGS):
            await leaser()
        # By the database's clock, which bounds of what runs go by, these leasings are as many a
        # second as the machine can make. What counts is PER_S, at which few ended since the bound.
        await asyncio.sleep(RENEWED_S)
        await leaser()
        assert await leaser.pages() < 2 * fresh


async def test_a_submit_that_leases_at_once_reads_at_most_twice_the_pages_too(
    quiet_database: Database,
) -> None:
    snapshots = OpenSnapshots(quiet_database, FakeClock())

    async def pages() -> float:
        before, submits = await pages_of(quiet_database), 10
        for _ in range(submits):
            request = new(tenant="ann")
            row = NewRow(request, EncodedInput(request.input), DirectLease("r1", "a1"))
            (inserted,) = await insert_requests(
                quiet_database, [row], 60.0, beside_snapshot=snapshots.open_for_long
            )
            assert inserted is not None
            assert inserted.leased
        return (await pages_of(quiet_database) - before) / submits

    await quiet_database.rows("DELETE FROM requests")
    await quiet_database.rows("VACUUM requests")
    fresh = await pages()
    with psycopg.connect(quiet_database.conninfo) as backup:
        backup.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        backup.execute("SELECT count(*) FROM halts")
        backup.execute("SET idle_in_transaction_session_timeout = 0")
        await fill(quiet_database, SLOTS * LEASINGS)
        await quiet_database.rows(
            "UPDATE requests SET state = 'succeeded', outcome = '{}' WHERE state = 'queued'"
        )
        snapshots.note_transactions(MIN_TRANSACTIONS)
        assert await pages() < 2 * fresh


async def test_lanes_take_turns_as_always_while_their_charges_are_not_written(
    database: Database,
) -> None:
    async def turns(front: Front | None) -> list[str]:
        await database.rows("TRUNCATE requests, attempts, events, fair_lanes")
        await fill(database, 60)
        tenants: list[str] = []
        charges: Mapping[str, float] = {}
        served = 0.0
        for _ in range(20):
            offers = [DirectLease("r1", "a1")] * 3
            got = await lease_queued(
                *(database, POOL, offers, LeasePreference(), LONG_LEASES, charges),
                front=None if front is None else replace(front, served=served),
            )
            charges, served = got.unwritten, max(served, got.served or 0.0)
            tenants += [granted.request.tenant for _, granted, _ in got.grants]
        return tenants

    always = await turns(None)
    assert await turns(Front(0.0, {}, writes_lanes=False)) == always
    assert await database.rows("SELECT DISTINCT vtime FROM fair_lanes") == [(0.0,)]
    assert await turns(Front(0.0, {}, writes_lanes=True)) == always


async def test_a_lane_that_was_idle_has_no_credit_from_leasings_that_wrote_nothing(
    database: Database,
) -> None:
    await fill(database, 200)
    await database.rows("UPDATE fair_lanes SET rested = true WHERE tenant = 'bob'")
    front = Front(0.0, {}, served=50.0, writes_lanes=False)
    charges = dict.fromkeys(TENANTS, 50.0) | {"bob": 0.0}
    got = await lease_queued(
        *(database, POOL, [DirectLease("r1", "a1")] * 8),
        *(LeasePreference(), LONG_LEASES, charges),
        front=front,
    )
    assert Counter(granted.request.tenant for _, granted, _ in got.grants) == dict.fromkeys(
        TENANTS, 2
    )


async def test_a_lane_that_was_idle_is_written_with_its_first_lease(database: Database) -> None:
    await fill(database, 40)
    await database.rows("UPDATE fair_lanes SET rested = true WHERE tenant = 'bob'")
    front = Front(0.0, {}, writes_lanes=False)
    got = await lease_queued(
        *(database, POOL, [DirectLease("r1", "a1")] * SLOTS),
        *(LeasePreference(), LONG_LEASES, {"ann": 1.0, "bob": 1.0}),
        front=front,
    )
    assert "bob" not in got.unwritten
    assert got.unwritten["ann"] >= 1.0
    written = await database.rows("SELECT tenant, rested FROM fair_lanes WHERE vtime > 0")
    assert written == [("bob", False)]


async def test_lanes_are_written_each_second_and_an_old_look_is_not_used(
    database: Database,
) -> None:
    await fill(database, 4)
    clock = FakeClock()
    snapshots = OpenSnapshots(database, clock)

    def wrote(unwritten: int = 1) -> bool | None:
        front = snapshots.front(POOL, unwritten)
        return None if front is None else front.writes_lanes

    assert wrote() is None
    await snapshots.look()
    assert wrote() is None  # no snapshot is open for long
    snapshots.note_transactions(MIN_TRANSACTIONS)
    assert wrote() is None  # and no look at the pool
    await snapshots.look()
    assert [wrote(), wrote(), wrote(unwritten=100), wrote()] == [True, False, True, False]
    clock.advance(WRITE_EVERY_S)
    assert wrote() is True
    clock.advance(MAX_AGE_S)
    assert wrote() is None
    await snapshots.look()
    assert wrote() is True
    snapshots.note_transactions(0)
    await snapshots.look()
    assert wrote() is None


class Slow(Database):
    """A database whose statements take a time of the fake clock."""

    def __init__(self, conninfo: str, clock: FakeClock, takes_s: float) -> None:
        super().__init__(conninfo)
        self.clock, self.takes_s = clock, takes_s
        self.statements = 0

    async def rows(self, sql: str, *params: Any, **named: Any) -> list[tuple[Any, ...]]:
        self.statements += 1
        self.clock.advance(self.takes_s)
        return await super().rows(sql, *params, **named)


async def test_looks_come_less_often_when_they_cost_more_and_hold_until_the_next_one(
    database: Database,
) -> None:
    await fill(database, 4)
    clock = FakeClock()
    slow = Slow(database.conninfo, clock, takes_s=1.0)
    await slow.start()
    try:
        snapshots = OpenSnapshots(slow, clock)
        snapshots.note_transactions(MIN_TRANSACTIONS)
        snapshots.front(POOL, 0)
        for second in range(21):
            assert (snapshots.front(POOL, 0) is not None) == (second > 0)
            await snapshots.look()
            clock.advance(1.0)
        assert slow.statements == 3  # a second is a tenth of ten
        slow.takes_s = 0.01
        statements = slow.statements
        for _ in range(20):
            snapshots.front(POOL, 0)
            await snapshots.look()
            clock.advance(1.0)
        assert slow.statements - statements >= 10
    finally:
        await slow.aclose()


async def test_a_look_finds_the_first_request_and_lane(database: Database) -> None:
    await fill(database, 40)
    await database.rows("UPDATE fair_lanes SET vtime = 5, served = 7")
    await database.rows("UPDATE fair_lanes SET vtime = 3 WHERE tenant = 'eve'")
    snapshots = OpenSnapshots(database, FakeClock())
    snapshots.note_transactions(MIN_TRANSACTIONS)
    snapshots.front(POOL, 0)
    await snapshots.look()
    front = snapshots.front(POOL, 0)
    assert front is not None
    assert front.vtime == 3.0
    first = dict(
        await database.rows(
            "SELECT tenant, extract(epoch FROM min(ranked_at))::double precision FROM requests "
            "GROUP BY tenant"
        )
    )
    assert front.ranks == {tenant: pytest.approx(first[tenant], abs=0.01) for tenant in TENANTS}
    assert all(front.ranks[tenant] < first[tenant] for tenant in TENANTS)
    snapshots.note_leasing(POOL, 9.0, [-0.5, -1.5])
    snapshots.queued_again(POOL, "joe")
    front = snapshots.front(POOL, 0)
    assert front is not None
    assert (front.vtime, front.served) == (1.5, 9.0)
    assert front.ranks.keys() == {"ann", "bob", "eve"}


async def test_a_look_does_not_hide_what_this_process_puts_in_front_meanwhile(
    database: Database,
) -> None:
    await fill(database, 40)
    snapshots = OpenSnapshots(database, FakeClock())
    snapshots.note_transactions(MIN_TRANSACTIONS)
    snapshots.front(POOL, 0)
    await snapshots.look()
    look = asyncio.create_task(snapshots.look())
    await asyncio.sleep(0)
    snapshots.queued_again(POOL, "joe")
    await look
    front = snapshots.front(POOL, 0)
    assert front is not None
    assert front.ranks.keys() == {"ann", "bob", "eve"}


async def beside_snapshot(queue: PostgresQueue) -> PostgresQueue:
    """The queue, as it works while a snapshot is open for long."""
    snapshots = queue.parts.state.snapshots
    snapshots.note_transactions(MIN_TRANSACTIONS)
    snapshots.front(POOL, 0)
    await snapshots.look()
    assert snapshots.front(POOL, 0) is not None
    return queue


async def test_what_this_process_puts_in_front_is_leased_first(ingress: Ingress) -> None:
    queue = await ingress()
    normal = [await queue.submit(new()) for _ in range(3)]
    await beside_snapshot(queue)
    high = await queue.submit(new(priority=Priority.HIGH))
    (first,) = (await queue.ask(ask())).leases
    assert first.request_id == high.id
    (second,) = (await queue.ask(ask())).leases
    assert second.request_id == normal[0].id
    await queue.hand_back(second.key, "r1", "It stops.")
    (third,) = (await queue.ask(ask())).leases
    assert third.request_id == normal[0].id


@pytest.mark.long
async def test_what_other_processes_queue_is_leased_too(ingress: Ingress) -> None:
    here, there = await beside_snapshot(await ingress()), await ingress()
    priorities = (Priority.NORMAL, Priority.HIGH, Priority.LOW)
    submitted = {
        (await there.submit(new(tenant=f"tenant-{n % 3}", priority=priorities[n % 3]))).id
        for n in range(12)
    }
    leased_ids = set[str]()
    while leased_ids < submitted:  # the test's time limit ends it
        leased_ids |= {granted.request_id for granted in (await here.ask(ask(2))).leases}
    assert leased_ids == submitted
