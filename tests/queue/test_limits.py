"""Admission of requests while others are being stored."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from serve_app.domain.billing.price import Price, PriceUnit, Quantities
from serve_app.domain.errors import Overloaded
from serve_app.postgres.database import Database
from serve_app.queue.batches.batches import PostgresBatches
from serve_app.queue.retention import RetentionByKind
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.deletion import Deletion
from serve_app.settings import BudgetConfig, EndpointLimits, TenantLimits
from serve_app.settings.bounds import MAX_BYTES, MAX_COUNT, MAX_DAYS, MAX_MONEY
from tests.contract.waiting import eventually
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, TENANT, ask, lease, make_finish, new

IMAGE = Price(PriceUnit.IMAGE, Decimal(1))

PATIENT = replace(LONG_LEASES, ask_wait_s=5.0)


async def test_a_burst_that_finds_free_slots_is_no_queue(ingress: Ingress) -> None:
    queue = await ingress(PATIENT)
    asking = asyncio.create_task(queue.ask(ask(8)))

    async def waits() -> bool:
        return queue.parts.polls.is_drained(POOL) and queue.parts.state.waiters.slots(POOL) == 8

    await eventually(waits)
    stored = await asyncio.gather(*(queue.submit(new(), most_queued=1) for _ in range(8)))
    leased = {granted.request_id for granted in (await asking).leases}
    assert leased == {request.id for request in stored}
    await queue.submit(new(), most_queued=1)
    with pytest.raises(Overloaded, match="you allow 1"):
        await queue.submit(new(), most_queued=1)


class Watched(dict[str, Any]):
    """An input that counts how often it was encoded as JSON."""

    encoded = 0

    def items(self) -> Any:
        self.encoded += 1
        return super().items()


async def test_the_input_of_a_request_that_is_refused_by_number_is_not_encoded(
    ingress: Ingress,
) -> None:
    queue = await ingress(replace(PATIENT, max_waiting_per_tenant=1))
    stored, refused, limited = (Watched({"prompt": "a cat", "n": n}) for n in range(3))
    await queue.submit(new(input=stored))
    with pytest.raises(Overloaded, match="1 of your requests"):
        await queue.submit(new(input=refused))
    with pytest.raises(Overloaded, match="you allow 1"):
        await queue.submit(new(tenant="bob", input=limited), most_queued=1)
    assert stored.encoded == 1
    assert refused.encoded == limited.encoded == 0


LARGEST = TenantLimits(
    weight=1000,
    max_running=MAX_COUNT,
    max_waiting=MAX_COUNT,
    max_waiting_bytes=MAX_BYTES,
    requests_per_minute=1_000_000,
    requests_burst=MAX_COUNT,
    budget=BudgetConfig(amount=MAX_MONEY, warn_at=(1e-300, MAX_COUNT)),
    retention_days=MAX_DAYS,
    prompt_retention_days=MAX_DAYS,
    file_retention_days=MAX_DAYS,
)


async def test_the_largest_limits_stop_no_tenant(ingress: Ingress, database: Database) -> None:
    """A statement whose parameters have a number that PostgreSQL has not fails for everyone."""
    tenants = {TENANT: LARGEST}
    endpoints = {"a/b": EndpointLimits(max_running=MAX_COUNT, max_waiting=MAX_COUNT)}
    limits = replace(PATIENT, tenants=tenants, endpoints=endpoints)
    queue = await ingress(replace(limits, max_running_per_tenant=MAX_COUNT))
    for tenant in (TENANT, "bob"):
        await queue.submit(new(tenant=tenant, price=IMAGE, expected=Quantities(images=1)))
    for _ in range(2):
        await queue.finish(make_finish((await lease(queue)).key))
    usual = (MAX_DAYS, tenants, MAX_DAYS, MAX_DAYS, MAX_DAYS, MAX_DAYS, MAX_DAYS, MAX_DAYS)
    retention = Retention(*usual)
    by_kind = RetentionByKind(database, retention)
    assert await by_kind.erase_prompts() == 0
    assert await by_kind.delete_files() == 0
    assert await by_kind.delete_deliveries() == 0
    assert await by_kind.delete_usage() == 0
    assert await Deletion(database, retention).delete_aged() == []
    await PostgresBatches(database, retention).delete_aged()
