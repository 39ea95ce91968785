"""Where every ``Queue`` says that a request stands, and why it waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.domain.lease import (
    Presence,
    ReplicaStage,
)
from serve_app.domain.ports import Queue
from serve_app.domain.request import WaitReason
from tests.contract.waiting import eventually
from tests.queue.requests import (
    POOL,
    ask,
    lease,
    new,
    report,
)


async def test_the_position_counts_who_goes_before_it_in_its_pool(queue: Queue) -> None:
    first = await queue.submit(new())
    second = await queue.submit(new(tenant="bob"))
    await queue.submit(new(pool="other"))
    third = await queue.submit(new())

    async def in_turn() -> bool:
        order = (first, second, third)
        return [(await queue.waiting(each)).position for each in order] == [0, 1, 2]

    await eventually(in_turn)
    await queue.ask(ask(1))

    async def moved_up() -> bool:
        return (await queue.waiting(third)).position == 1

    await eventually(moved_up)


async def test_the_reason_names_what_it_waits_for(queue: Queue) -> None:
    request = await queue.submit(new())
    assert (await queue.waiting(request)).reason is WaitReason.NO_REPLICA
    starting = Presence("r1", "actor-r1", POOL, ReplicaStage.STARTING, "Loading weights")
    await queue.announce(starting)
    waiting = await queue.waiting(request)
    assert (waiting.reason, waiting.detail) == (WaitReason.COLD_START, "Loading weights")
    await queue.ask(ask(0))
    assert (await queue.waiting(request)).reason is WaitReason.BUSY


async def test_who_waits_is_told_what_the_replica_loads(queue: Queue) -> None:
    await queue.submit(new())
    held = (await lease(queue)).held
    waits = await queue.submit(new())
    await queue.report(replace(report(held), detail="downloading flux, 1.0 of 33.7 GB"))

    async def told() -> bool:
        waiting = await queue.waiting(waits)
        return waiting.detail.startswith("downloading") and waiting.reason is WaitReason.BUSY

    await eventually(told)
    await queue.ask(ask(0, held))

    async def no_longer() -> bool:
        return not (await queue.waiting(waits)).detail

    await eventually(no_longer)


async def test_demand_counts_by_pool(queue: Queue) -> None:
    for _ in range(3):
        await queue.submit(new())
    await queue.ask(ask(2))

    async def counted() -> bool:
        demand = (await queue.demand())[POOL]
        return (demand.queued, demand.running, demand.slots) == (1, 2, 2)

    await eventually(counted)
    demand = (await queue.demand())[POOL]
    assert demand.oldest_wait_s > 0
    assert demand.idle_s == pytest.approx(0, abs=0.05)
