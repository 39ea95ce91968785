"""A replica that downloads weights gets no further requests for them, but all others."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.domain.lease import Ask, LeaseKey
from serve_app.domain.ports import Queue
from serve_app.queue.store.config import QueueLimits
from serve_app.settings import EndpointLimits, TenantLimits
from tests.contract.queues import Make
from tests.contract.test_fairness_contract import CALM
from tests.queue.requests import ask, new

COLD, HOT = "fal-ai/flux/dev", "fal-ai/flux/schnell"
LIMITED = replace(
    CALM,
    tenants={"bob": TenantLimits(max_running=1)},
    endpoints={"other": EndpointLimits(max_running=1)},
)


def downloading(slots: int = 1, *lease_key: LeaseKey, replica: str = "r1") -> Ask:
    return replace(ask(slots, *lease_key, replica=replica), hot=(HOT,), coming=(COLD,))


async def leased_endpoints(queue: Queue, asked: Ask) -> list[str]:
    return [lease.endpoint.id for lease in (await queue.ask(asked)).leases]


@pytest.mark.parametrize("limits", [CALM, LIMITED], ids=["without limits", "with limits"])
async def test_what_is_queued_for_them_is_left_for_others(make: Make, limits: QueueLimits) -> None:
    queue = await make(limits)
    for endpoint in (COLD, COLD, HOT):
        await queue.submit(new(endpoint=endpoint))
    await queue.submit(new(tenant="bob", endpoint=COLD))
    assert await leased_endpoints(queue, downloading(4)) == [HOT]
    assert await leased_endpoints(queue, replace(downloading(), hot=())) == []
    assert await leased_endpoints(queue, ask(4, replica="r2")) == [COLD] * 3


async def test_who_waits_with_a_free_slot_is_not_given_them_at_their_submit(make: Make) -> None:
    queue = await make(replace(CALM, ask_wait_s=30.0))
    waiting = asyncio.create_task(queue.ask(downloading(2)))
    await asyncio.sleep(0)
    cold = await queue.submit(new(endpoint=COLD))
    hot = await queue.submit(new(endpoint=HOT))
    assert [lease.request_id for lease in (await waiting).leases] == [hot.id]
    (granted,) = (await queue.ask(ask(1, replica="r2"))).leases
    assert granted.request_id == cold.id


async def test_of_two_who_wait_the_one_that_does_not_download_gets_it(make: Make) -> None:
    queue = await make(replace(CALM, ask_wait_s=30.0))
    busy = asyncio.create_task(queue.ask(downloading()))
    free = asyncio.create_task(queue.ask(ask(1, replica="r2")))
    await asyncio.sleep(0)
    for _ in range(2):
        await queue.submit(new(endpoint=COLD))
    assert len((await free).leases) == 1
    await queue.submit(new(endpoint=HOT))
    assert [lease.endpoint.id for lease in (await busy).leases] == [HOT]
