"""Admission of requests while others are being stored."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain.errors import Overloaded
from tests.contract.waiting import eventually
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, ask, new

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
