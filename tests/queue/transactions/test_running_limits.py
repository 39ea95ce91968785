"""Limits on running requests hold exactly, however many processes lease at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

import psycopg
import pytest

from serve_app.domain.lease import Lease, LeasePreference, LeftOut
from serve_app.postgres.database import SESSION, Database
from serve_app.queue.fairness.running_limits import RunningLimits
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.insert import DirectLease
from serve_app.queue.transactions.lease import LeaseResult, lease_queued
from serve_app.settings import EndpointLimits, TenantLimits
from tests.queue.database import LONG_LEASES, Ingress, buffers_read
from tests.queue.requests import POOL, ask, make_finish, new

DEV = "fal-ai/flux/dev"
LIMITS = replace(
    LONG_LEASES,
    max_running_per_tenant=4,
    tenants={"ann": TenantLimits(max_running=3), "bob": TenantLimits(max_running=1)},
    endpoints={DEV: EndpointLimits(max_running=2)},
)
TENANTS = ("ann", "bob", "cleo", "dan")


def most_of(tenant: str) -> int:
    return LIMITS.running_of_tenant(tenant) or 0


async def test_no_limit_is_passed_while_four_processes_lease_and_end(ingress: Ingress) -> None:
    queues = [await ingress(LIMITS) for _ in range(4)]
    submitted = {
        (await queues[n % 4].submit(new(tenant=tenant, endpoint=DEV if n % 3 == 0 else "noop"))).id
        for n in range(15)
        for tenant in TENANTS
    }
    finished: set[str] = set()
    running: Counter[str] = Counter()
    owner = {
        request.id: request.tenant
        for tenant in TENANTS
        for request in await queues[0].page(tenant, limit=50)
    }
    assert owner.keys() == submitted
    chance = random.Random(7)  # noqa: S311

    async def run(queue: int, granted: Lease, name: str) -> None:
        keys = ["tenant " + owner[granted.request_id], "endpoint " + granted.endpoint.id]
        # Counted from after the lease until before its end, so never more than really run.
        running.update(keys)
        assert running[keys[0]] <= most_of(owner[granted.request_id])
        assert running["endpoint " + DEV] <= 2
        await asyncio.sleep(chance.random() * 0.02)
        running.subtract(keys)
        if chance.random() < 0.2:
            await queues[queue].hand_back(granted.key, name, "draining")
        else:
            await queues[queue].finish(make_finish(granted.key, replica=name))
            finished.add(granted.request_id)

    async def replica(queue: int, name: str) -> None:
        while len(finished) < len(submitted):
            work = await queues[queue].ask(ask(chance.randint(1, 8), replica=name))
            await asyncio.gather(*(run(queue, new_lease, name) for new_lease in work.leases))

    await asyncio.gather(*(replica(n, f"r{n}-{m}") for n in range(4) for m in range(2)))
    assert finished == submitted


async def lease_slots(database: Database, limits: QueueLimits) -> LeaseResult:
    offers = [DirectLease("r1", "a1")] * 8
    return await lease_queued(database, POOL, offers, LeasePreference(), limits, {})


async def test_a_leasing_waits_for_no_other_one_and_leaves_out_what_that_one_counts(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    for tenant in ("ann", "cleo"):
        await queue.submit(new(tenant=tenant))
    async with await psycopg.AsyncConnection.connect(ingress.conninfo) as other:
        await other.execute("SELECT room_under_limit('tenant', 'ann', 3, 1)")
        got = await lease_slots(database, LIMITS)
        assert [granted.request.tenant for _, granted, _ in got.grants] == ["cleo"]
        assert got.missed == 1  # so it looks again soon
    got = await lease_slots(database, LIMITS)
    assert [granted.request.tenant for _, granted, _ in got.grants] == ["ann"]


async def test_what_was_leased_after_a_leasing_began_is_counted_by_it(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    for _ in range(3):
        await queue.submit(new(tenant="bob"))
    async with (
        await psycopg.AsyncConnection.connect(ingress.conninfo, autocommit=True) as other,
        await psycopg.AsyncConnection.connect(ingress.conninfo, autocommit=True) as holder,
    ):
        # The function, within one statement that has its snapshot before the other's commit.
        await other.execute(
            """CREATE FUNCTION pg_temp.room_after() RETURNS integer LANGUAGE plpgsql
               AS 'BEGIN PERFORM pg_advisory_lock(4711);
                   RETURN room_under_limit(''tenant'', ''bob'', 1, 1); END'"""
        )
        await holder.execute("SELECT pg_advisory_lock(4711)")
        counting = asyncio.create_task(other.execute("SELECT pg_temp.room_after()"))
        waits = "SELECT 1 FROM pg_locks WHERE objid = 4711 AND NOT granted"
        while await (await holder.execute(waits)).fetchone() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert len((await lease_slots(database, LIMITS)).grants) == 1
        await holder.execute("SELECT pg_advisory_unlock(4711)")
        assert await (await counting).fetchone() == (0,)


RUNNING, MAX_READ = 3000, 600
MANY = f"""
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input, attempt,
                      started_at, lease_until, finished_at, outcome)
SELECT gen_random_uuid(), CASE WHEN n % 2 = 0 THEN 'ann' ELSE 'eve' END, 'noop', '0', '{POOL}', 1,
       CASE WHEN n % 2 = 0 THEN 'succeeded' ELSE 'running' END, '{{}}', 1, now(),
       CASE WHEN n % 2 = 1 THEN now() + interval '1 day' END,
       CASE WHEN n % 2 = 0 THEN now() END, CASE WHEN n % 2 = 0 THEN '{{}}'::json END
FROM generate_series(1, {2 * RUNNING}) n
"""


@pytest.mark.parametrize("kind", ["tenant", "endpoint"])
async def test_what_is_counted_under_a_limit_is_not_the_history_nor_what_runs_of_others(
    empty: str, kind: str
) -> None:
    await migrate(empty)
    async with await psycopg.AsyncConnection.connect(empty, autocommit=True) as connection:
        await connection.execute(SESSION)
        room = f"SELECT room_under_limit('{kind}', 'ann', 5, 1)".encode()
        await connection.execute(room)  # its plan is made while the tables are empty
        await connection.execute(MANY.encode())
        cursor = await connection.execute(b"EXPLAIN (ANALYZE, BUFFERS) " + room)
        plan = [line for (line,) in await cursor.fetchall()]
        assert buffers_read(plan) < MAX_READ, plan
        assert await (await connection.execute(room)).fetchone() == (5,)


FULL, ENDPOINTS, EACH_RUNS = 300, 40, 40
SETUP = f"""
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input, attempt,
                      replica_id, actor_id, started_at, lease_until)
SELECT gen_random_uuid(), 'full-' || n % {FULL}, 'endpoint-' || n % {ENDPOINTS}, '0', '{POOL}', 1,
       'running', '{{}}', 1, 'r', 'a', now() - interval '1 hour', now() + interval '1 day'
FROM generate_series(1, {FULL * EACH_RUNS}) n
"""
WAIT = f"""
WITH tenant AS (
    INSERT INTO fair_lanes (pool, tenant, vtime)
    SELECT '{POOL}', 'full-' || n, 0 FROM generate_series(0, {FULL} - 1) n
    UNION ALL SELECT '{POOL}', 'free-' || n, 1 FROM generate_series(1, 8) n
    RETURNING tenant
)
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input)
SELECT gen_random_uuid(), tenant, 'endpoint-' || n, '0', '{POOL}', 1, 'queued', '{{}}'
FROM tenant, generate_series(1, 30) n
"""
MOST_PAGES = 2000
PAGES = """
SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::bigint
FROM pg_statio_user_tables WHERE relname IN ('requests', 'fair_lanes', 'running_counts')
"""
AGAIN = """
UPDATE requests SET state = 'queued', lease_until = NULL, started_at = NULL
WHERE state = 'running' AND replica_id = 'r1'
"""
TENANTS_LIMITED = replace(LONG_LEASES, max_running_per_tenant=EACH_RUNS)
ENDPOINTS_LIMITED = replace(
    LONG_LEASES,
    endpoints={f"endpoint-{n}": EndpointLimits(max_running=10_000) for n in range(ENDPOINTS)},
)


@pytest.mark.parametrize(
    "limits", [TENANTS_LIMITED, ENDPOINTS_LIMITED], ids=["tenants", "endpoints"]
)
async def test_a_leasing_reads_neither_what_runs_nor_the_requests_of_lanes_at_their_limit(
    empty: str, limits: QueueLimits
) -> None:
    await migrate(empty)
    database = Database(empty, connections=1, limit_s=120.0)  # to insert what is there
    await database.start()
    for statement in (SETUP, WAIT, "ANALYZE requests, fair_lanes"):
        await database.rows(statement)
    known = RunningLimits(database, limits)

    async def read() -> int:
        await database.rows("SELECT pg_stat_force_next_flush()")
        ((pages,),) = await database.rows(PAGES)
        return pages

    async def lease() -> int:
        before = await read()
        left_out, number = known.left_out()
        offers = [DirectLease("r1", "a1")] * 8
        wants = LeasePreference(left_out=left_out)
        leasing = await lease_queued(database, POOL, offers, wants, limits, {})
        known.note_full(leasing.full, number)
        assert len(leasing.grants) == 8
        pages = await read() - before
        await database.rows(AGAIN)
        return pages

    try:
        known.left_out()
        await known.look()
        await lease()  # makes the counts
        assert [await lease() for _ in range(3)] < [MOST_PAGES] * 3
    finally:
        await database.aclose()


async def test_kept_counts_let_exactly_the_limit_run(database: Database, ingress: Ingress) -> None:
    most, before = 300, 250
    limits = replace(LONG_LEASES, max_running_per_tenant=most)
    await (await ingress(limits)).submit(new())
    queue = f"""
        INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input)
        SELECT gen_random_uuid(), 'ann', 'noop', '0', '{POOL}', 1, 'queued', '{{}}'
        FROM generate_series(1, %(count)s)"""
    start = """
        UPDATE requests SET state = 'running', lease_until = now() + interval '1 day',
               started_at = now() - interval '1 hour'
        WHERE id IN (SELECT id FROM requests WHERE state = 'queued' LIMIT %(count)s)"""
    end = """
        UPDATE requests SET state = 'succeeded', outcome = '{}', lease_until = NULL
        WHERE id IN (SELECT id FROM requests WHERE state = 'running'
                     ORDER BY started_at %(order)s LIMIT %(count)s)"""
    await database.rows(queue, {"count": 600})
    await database.rows(start, {"count": before})

    async def lease_all() -> int:
        while (await lease_slots(database, limits)).grants:
            pass
        rows = await database.rows("SELECT count(*) FROM requests WHERE state = 'running'")
        return rows[0][0]

    assert await lease_all() == most
    assert await database.rows("SELECT kind, name FROM running_counts") == [("tenant", "ann")]
    for order in ("ASC", "DESC"):
        await database.rows(end.replace("%(order)s", order), {"count": 70})
        assert await lease_all() == most
    # The clock was set back by an hour: the counts are from the future.
    await database.rows("UPDATE running_counts SET since = since + interval '1 hour', counted = 0")
    assert await lease_all() == most
    assert await database.rows("SELECT since < now() FROM running_counts") == [(True,)]


async def test_an_end_in_one_process_lets_another_one_lease_what_waits_at_the_limit(
    ingress: Ingress,
) -> None:
    # Only a notification can say so in time: no process looks again within the test.
    limits = replace(LIMITS, check_interval_s=1000.0, ask_wait_s=100.0)
    here, there = await ingress(limits), await ingress(limits)
    for _ in range(2):
        await here.submit(new(tenant="bob"))
    (first,) = (await here.ask(ask(1, replica="r1"))).leases
    waiting = asyncio.create_task(there.ask(ask(1, replica="r2")))
    while there.parts.state.running_limits.left_out()[0] != LeftOut(tenants=frozenset({"bob"})):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await here.finish(make_finish(first.key))
    assert len((await waiting).leases) == 1


async def test_what_is_freed_while_a_leasing_or_a_look_is_under_way_is_not_left_out(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    for _ in range(2):
        await queue.submit(new(tenant="bob"))
    assert len((await lease_slots(database, LIMITS)).grants) == 1
    known = RunningLimits(database, LIMITS)
    _, began = known.left_out()
    known.note_freed([("tenant", "bob")])
    known.note_full((await lease_slots(database, LIMITS)).full, began)
    assert not known.left_out()[0]
    look = asyncio.create_task(known.look())
    await asyncio.sleep(0)
    known.note_freed([("tenant", "bob")])
    await look
    assert not known.left_out()[0]
    await known.look()
    assert known.left_out()[0].tenants == {"bob"}


async def test_a_look_forgets_what_is_no_longer_at_its_limit(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    for n in range(6):
        await queue.submit(new(tenant="bob" if n % 2 else "cleo", endpoint=DEV))
    while (await lease_slots(database, LIMITS)).grants:
        pass
    known = RunningLimits(database, LIMITS)
    known.left_out()
    await known.look()
    assert known.left_out()[0] == LeftOut(frozenset({DEV}), frozenset({"bob"}))
    await database.rows(
        "UPDATE requests SET state = 'succeeded', outcome = '{}', lease_until = NULL "
        "WHERE state = 'running'"
    )
    await known.look()
    assert not known.left_out()[0]
    known.note_full(LeftOut(frozenset({DEV})), 0)
    await known.look()
    known.note_full(LeftOut(frozenset({DEV})), 0)
    await known.look()  # nothing was leased since the last one
    assert not known.left_out()[0]


async def test_a_look_finds_disabled_tenants_and_others_at_their_limit(
    ingress: Ingress, database: Database
) -> None:
    limits = replace(LIMITS, disabled=frozenset({"dan"}))
    queue = await ingress(limits)
    for tenant in ("bob", "bob", "cleo", "dan"):
        await queue.submit(new(tenant=tenant))
    while (await lease_slots(database, limits)).grants:
        pass
    await queue.submit(new(tenant="cleo"))
    known = RunningLimits(database, limits)
    known.left_out()
    await known.look()
    assert known.left_out()[0].tenants == {"bob", "dan"}
