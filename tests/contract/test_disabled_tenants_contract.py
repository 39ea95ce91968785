"""What is queued of a disabled tenant waits until the tenant is enabled."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.domain.errors import Overloaded
from serve_app.domain.lease import Demand
from serve_app.domain.ports import Queue
from serve_app.queue.store.config import QueueLimits
from serve_app.settings import TenantLimits
from tests.contract.queues import Make
from tests.contract.test_downloading_contract import LIMITED
from tests.contract.test_fairness_contract import CALM
from tests.queue.requests import POOL, ask, new


async def leased_tenants(queue: Queue, slots: int) -> list[str]:
    return [lease.tenant for lease in (await queue.ask(ask(slots))).leases]


@pytest.mark.parametrize("usual", [CALM, LIMITED], ids=["without limits", "with limits"])
async def test_its_requests_wait_and_all_others_run(make: Make, usual: QueueLimits) -> None:
    limits = replace(usual, disabled=frozenset({"ann"}))
    queue = await make(limits)
    for tenant in ("ann", "bob"):
        waits = await queue.submit(new(tenant=tenant))
        assert waits.tenant == tenant
    assert await leased_tenants(queue, 4) == ["bob"]
    assert await leased_tenants(queue, 4) == []
    limits.disabled = frozenset()
    async with asyncio.timeout(60):
        while (tenants := await leased_tenants(queue, 4)) != ["ann"]:
            assert tenants == []


async def test_no_replica_is_started_and_no_batch_waits_for_its_requests(make: Make) -> None:
    """The lines of batches are submitted while few requests are queued. They expired."""
    queue = await make(replace(CALM, disabled=frozenset({"ann"})))
    for number in range(5):
        await queue.submit(new(tenant="ann", input={"prompt": f"{number}"}))
    assert (await queue.demand()).get(POOL, Demand()).queued == 0
    await queue.submit(new(tenant="bob"), most_queued=1)
    assert (await queue.demand())[POOL].queued == 1


async def test_no_batch_waits_for_what_a_tenant_may_not_run_at_once(make: Make) -> None:
    """One tenant with a limit and a long queue would keep the batches of all others from slots that
    are free."""
    queue = await make(replace(CALM, tenants={"ann": TenantLimits(max_running=2)}))
    for number in range(9):
        await queue.submit(new(tenant="ann", input={"prompt": f"{number}"}))
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        await queue.submit(new(tenant="bob"), most_queued=2)
    await queue.submit(new(tenant="bob"), most_queued=3)


async def test_its_requests_say_why_they_wait(make: Make) -> None:
    queue = await make(replace(CALM, disabled=frozenset({"ann"})))
    request = await queue.submit(new(tenant="ann"))
    waiting = await queue.waiting(request)
    assert waiting.starts_at is None
    assert "disabled" in waiting.detail


async def test_an_attempt_that_runs_is_not_interrupted(make: Make) -> None:
    limits = replace(CALM)
    queue = await make(limits)
    request = await queue.submit(new(tenant="ann"))
    assert await leased_tenants(queue, 1) == ["ann"]
    limits.disabled = frozenset({"ann"})
    assert (await queue.get("ann", request.id)).state.value == "running"
