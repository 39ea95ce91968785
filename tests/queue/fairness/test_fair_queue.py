"""A lane with work is never asleep for long, and a lane without work goes to sleep."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg

from serve_app.domain.lease import LeftOut
from serve_app.postgres.database import Database
from serve_app.queue.fairness.fair_queue import Lanes
from serve_app.settings import TenantLimits
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, TENANT, ask, lease, make_finish, new

LANE = (POOL, TENANT)


async def active(database: Database) -> dict[tuple[str, str], bool]:
    rows = await database.rows("SELECT pool, tenant, active FROM fair_lanes")
    return {(pool, tenant): awake for pool, tenant, awake in rows}


async def becomes(database: Database, lanes: dict[tuple[str, str], bool]) -> None:
    """Wait for this state. A sweep that began before a submit may put its lane to sleep for a
    moment; it looks again.
    """
    async with asyncio.timeout(120):
        while await active(database) != lanes:  # noqa: ASYNC110 the database has no event for it
            await asyncio.sleep(0.01)


async def test_a_submit_wakes_its_lane_and_the_sweeper_puts_it_to_sleep(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await queue.submit(new())
    await becomes(database, {LANE: True})
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key))
    await becomes(database, {LANE: False})
    await queue.submit(new())
    await becomes(database, {LANE: True})
    lease_key = (await queue.ask(ask(1))).leases[0].key
    await queue.hand_back(lease_key, "r1", "draining")
    await becomes(database, {LANE: True})


async def test_a_lane_that_was_put_to_sleep_with_work_in_it_is_woken(
    ingress: Ingress, database: Database, conninfo: str
) -> None:
    queue = await ingress()
    await queue.submit(new())
    lanes = Lanes(database, LONG_LEASES)
    for wake in (lanes.wake, lambda: lanes.wake_if_work([LANE])):
        with psycopg.connect(conninfo) as connection:
            connection.execute("UPDATE fair_lanes SET active = false")
        await wake()
        assert await active(database) == {LANE: True}


async def test_a_weight_that_changes_while_requests_wait_is_the_lane_s(
    ingress: Ingress, database: Database
) -> None:
    limits = replace(LONG_LEASES)
    queue = await ingress(limits)
    await queue.submit(new())
    limits.become(replace(limits, tenants={TENANT: TenantLimits(weight=3)}))
    async with asyncio.timeout(120):
        while await database.rows("SELECT weight FROM fair_lanes") != [(3.0,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_lane_that_went_with_a_deleted_tenant_is_there_for_the_next_of_its_name(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await queue.submit(new())
    await queue.finish(make_finish((await lease(queue)).key))
    await database.rows("DELETE FROM fair_lanes")
    request = await queue.submit(new())
    async with asyncio.timeout(120):
        while not (work := await queue.ask(ask(1))).leases:
            pass
    assert work.leases[0].request_id == request.id


async def test_only_lanes_that_replicas_skip_save_up_no_turns(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    for tenant in (TENANT, "bob"):
        await queue.submit(new(tenant=tenant))
    await becomes(database, {LANE: True, (POOL, "bob"): True})
    await database.rows("UPDATE fair_lanes SET rested = false")
    await Lanes(database, LONG_LEASES).skip_credit(POOL, LeftOut(tenants=frozenset({"bob"})))
    assert await database.rows("SELECT tenant FROM fair_lanes WHERE rested") == [("bob",)]
