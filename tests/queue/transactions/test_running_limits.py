"""Limits on running requests hold exactly, however many processes lease at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

import psycopg
import pytest

from serve_app.domain.lease import Lease, LeftOut
from serve_app.postgres.database import SESSION, Database
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.insert import DirectLease
from serve_app.queue.transactions.lease import LeaseResult, lease_queued
from serve_app.settings import EndpointLimits, TenantLimits
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, ask, done, new

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
    wanted = {
        (await queues[n % 4].submit(new(tenant=tenant, endpoint=DEV if n % 3 == 0 else "noop"))).id
        for n in range(15)
        for tenant in TENANTS
    }
    finished: set[str] = set()
    running: Counter[str] = Counter()
    owner = {
        each.id: each.tenant
        for tenant in TENANTS
        for each in await queues[0].page(tenant, limit=50)
    }
    assert owner.keys() == wanted
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
            await queues[queue].hand_back(granted.held, name, "draining")
        else:
            await queues[queue].finish(done(granted.held, replica=name))
            finished.add(granted.request_id)

    async def replica(queue: int, name: str) -> None:
        while len(finished) < len(wanted):
            work = await queues[queue].ask(ask(chance.randint(1, 8), replica=name))
            await asyncio.gather(*(run(queue, each, name) for each in work.leases))

    await asyncio.gather(*(replica(n, f"r{n}-{m}") for n in range(4) for m in range(2)))
    assert finished == wanted


async def leased(database: Database, limits: QueueLimits) -> LeaseResult:
    offers = [DirectLease("r1", "a1")] * 8
    return await lease_queued(database, POOL, offers, frozenset(), LeftOut(), limits, {})


async def test_a_leasing_waits_for_no_other_one_and_leaves_out_what_that_one_counts(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    for tenant in ("ann", "cleo"):
        await queue.submit(new(tenant=tenant))
    async with await psycopg.AsyncConnection.connect(ingress.conninfo) as other:
        await other.execute("SELECT running_room('tenant', 'ann', 3)")
        got = await leased(database, LIMITS)
        assert [each.request.tenant for _, each, _ in got.found] == ["cleo"]
        assert got.missed == 1  # so it looks again soon
    got = await leased(database, LIMITS)
    assert [each.request.tenant for _, each, _ in got.found] == ["ann"]


async def test_what_was_leased_after_a_leasing_began_is_counted_by_it(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    for _ in range(3):
        await queue.submit(new(tenant="bob"))
    async with await psycopg.AsyncConnection.connect(ingress.conninfo, autocommit=True) as other:
        # The function, within one statement that has its snapshot before the other's commit.
        await other.execute(
            """CREATE FUNCTION pg_temp.room_after(seconds float) RETURNS integer LANGUAGE plpgsql
               AS 'BEGIN PERFORM pg_sleep(seconds);
                   RETURN running_room(''tenant'', ''bob'', 1); END'"""
        )
        counting = asyncio.create_task(other.execute("SELECT pg_temp.room_after(1.0)"))
        await asyncio.sleep(0.2)
        assert len((await leased(database, LIMITS)).found) == 1
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
        room = f"SELECT running_room('{kind}', 'ann', 5)".encode()
        await connection.execute(room)  # its plan is made while the tables are empty
        await connection.execute(MANY.encode())
        cursor = await connection.execute(b"EXPLAIN (ANALYZE, BUFFERS) " + room)
        plan = [line for (line,) in await cursor.fetchall()]
        read = next(line for line in plan if "shared hit=" in line)
        assert int(read.split("shared hit=")[1].split()[0]) < MAX_READ, plan
        assert await (await connection.execute(room)).fetchone() == (5,)
