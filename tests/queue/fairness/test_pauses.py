"""Paused endpoints in the database: behaviour that the contract suite cannot see."""

from __future__ import annotations

import psycopg

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import EndpointDraining
from serve_app.domain.request import WaitReason
from serve_app.postgres.database import Database
from tests.contract.waiting import eventually
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import ask, new

ENDPOINT = new().endpoint


async def test_lanes_of_paused_requests_sleep_until_the_resume(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LONG_LEASES)
    await queue.operations.pause(ENDPOINT, Actor("key"))
    ids = {(await queue.submit(new(tenant=tenant))).id for tenant in ("ann", "bob")}

    async def asleep() -> bool:
        return not await database.rows("SELECT FROM fair_lanes WHERE active")

    await eventually(asleep)
    await queue.operations.resume(ENDPOINT, Actor("key"))
    assert {granted.request_id for granted in (await queue.ask(ask(2))).leases} == ids


async def test_a_pause_there_holds_at_once_here(ingress: Ingress) -> None:
    here, there = await ingress(LONG_LEASES), await ingress(LONG_LEASES)
    await there.operations.pause(ENDPOINT, Actor("key"))
    request = await here.submit(new())
    assert not (await here.ask(ask(1))).leases

    async def said() -> bool:
        return (await here.waiting(request)).reason is WaitReason.PAUSED

    await eventually(said)
    await there.operations.resume(ENDPOINT, Actor("key"))
    assert [granted.request_id for granted in (await here.ask(ask(1))).leases] == [request.id]


async def test_a_drain_there_is_soon_one_here(ingress: Ingress) -> None:
    here, there = await ingress(LONG_LEASES), await ingress(LONG_LEASES)
    await there.operations.drain(ENDPOINT, Actor("key"))

    async def refused() -> bool:
        try:
            await here.submit(new())
        except EndpointDraining:
            return True
        return False

    await eventually(refused)


async def test_an_open_transaction_is_seen(ingress: Ingress, conninfo: str) -> None:
    queue = await ingress(LONG_LEASES)
    async with await psycopg.AsyncConnection.connect(
        conninfo, application_name="forgotten"
    ) as connection:
        await connection.execute("SELECT 1")
        oldest = (await queue.operations.overview()).oldest_transaction
        assert oldest is not None
        assert (oldest.application, oldest.state) == ("forgotten", "idle in transaction")
        assert oldest.age_s >= 0


async def test_the_place_of_others_does_not_count_what_is_paused(ingress: Ingress) -> None:
    queue = await ingress(LONG_LEASES)
    await queue.operations.pause(ENDPOINT, Actor("key"))
    for _ in range(5):
        await queue.submit(new(tenant="zoe"))
    request = await queue.submit(new(endpoint="fal-ai/flux/dev"))

    async def next_in_line() -> bool:
        return (await queue.waiting(request)).position == 0

    await eventually(next_in_line)
