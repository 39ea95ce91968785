"""A replica that fetches enough input files of a tenant gets none of its requests, but all
others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.domain.lease import Ask
from serve_app.domain.ports import Queue
from serve_app.queue.store.config import QueueLimits
from tests.contract.queues import Make
from tests.contract.test_downloading_contract import LIMITED
from tests.contract.test_fairness_contract import CALM
from tests.queue.requests import ask, new


def full(slots: int = 1, *tenants: str, replica: str = "r1") -> Ask:
    return replace(ask(slots, replica=replica), full_tenants=tenants)


async def leased_tenants(queue: Queue, asked: Ask) -> list[str]:
    return [lease.tenant for lease in (await queue.ask(asked)).leases]


@pytest.mark.parametrize("limits", [CALM, LIMITED], ids=["without limits", "with limits"])
async def test_its_requests_are_left_for_others(make: Make, limits: QueueLimits) -> None:
    queue = await make(limits)
    for tenant in ("ann", "ann", "bob"):
        await queue.submit(new(tenant=tenant))
    assert await leased_tenants(queue, full(4, "ann", "eve")) == ["bob"]
    assert await leased_tenants(queue, full(4, "ann")) == []
    assert await leased_tenants(queue, full(4, "eve", replica="r2")) == ["ann", "ann"]


async def test_who_waits_with_a_free_slot_is_not_given_them_at_their_submit(make: Make) -> None:
    queue = await make(replace(CALM, ask_wait_s=30.0))
    waiting = asyncio.create_task(queue.ask(full(2, "ann")))
    await asyncio.sleep(0)
    anns = await queue.submit(new(tenant="ann"))
    bobs = await queue.submit(new(tenant="bob"))
    assert [lease.request_id for lease in (await waiting).leases] == [bobs.id]
    (left,) = (await queue.ask(ask(1, replica="r2"))).leases
    assert left.request_id == anns.id


async def test_a_poll_can_ask_for_an_early_answer(make: Make) -> None:
    queue = await make(replace(CALM, ask_wait_s=3600.0))
    await queue.submit(new(tenant="ann"))
    async with asyncio.timeout(60):
        work = await queue.ask(replace(full(1, "ann"), wait_s=0.05))
    assert work.leases == ()
    assert await leased_tenants(queue, ask(1)) == ["ann"]
