"""Contract of queue positions and reasons of waits, for every ``Queue``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from serve_app.domain.lease import (
    Presence,
    ReplicaStage,
)
from serve_app.domain.ports import Queue
from serve_app.domain.progress import Loading, Stage, to_plain
from serve_app.domain.request import WaitReason
from serve_app.queue.queue import PostgresQueue
from tests.contract.queues import Make
from tests.contract.waiting import eventually
from tests.queue.requests import (
    POOL,
    TENANT,
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
        return [(await queue.waiting(request)).position for request in order] == [0, 1, 2]

    await eventually(in_turn)
    await queue.ask(ask(1))

    async def moved_up() -> bool:
        return (await queue.waiting(third)).position == 1

    await eventually(moved_up)


async def test_the_reason_names_what_it_waits_for(queue: Queue) -> None:
    request = await queue.submit(new())

    async def told(reason: WaitReason, detail: str | None = None) -> bool:
        waiting = await queue.waiting(request)
        return waiting.reason is reason and detail in (None, waiting.detail)

    await eventually(partial(told, WaitReason.NO_REPLICA))
    starting = Presence("r1", "actor-r1", POOL, ReplicaStage.STARTING, "Loading weights")
    await queue.announce(starting)
    await eventually(partial(told, WaitReason.COLD_START, "Loading weights"))

    async def busy() -> bool:
        await queue.ask(ask(0))  # again, where what it said is old by now
        return await told(WaitReason.BUSY)

    await eventually(busy)


async def test_a_client_that_waits_learns_what_the_replica_loads(queue: Queue) -> None:
    await queue.submit(new())
    key = (await lease(queue)).key
    waits = await queue.submit(new())
    await queue.report(replace(report(key), detail="downloading flux, 1.0 of 33.7 GB"))

    async def shown() -> bool:
        waiting = await queue.waiting(waits)
        return waiting.detail.startswith("downloading") and waiting.reason is WaitReason.BUSY

    await eventually(shown)
    await queue.ask(ask(0, key))

    async def no_longer() -> bool:
        return not (await queue.waiting(waits)).detail

    await eventually(no_longer)


DOWNLOAD = Loading(("fal-ai/flux/schnell",), Stage.DOWNLOADING, 8, 32)


async def test_a_cold_start_has_a_stage_and_the_share_of_its_bytes_that_is_there(
    queue: Queue,
) -> None:
    request = await queue.submit(new())
    starting = Presence("r1", "actor-r1", POOL, ReplicaStage.STARTING)
    await queue.announce(starting)
    waiting = await queue.waiting(request)
    assert (waiting.reason, waiting.stage) == (WaitReason.COLD_START, "starting")
    warming_up = Loading(("a/b",), Stage.WARMING_UP)
    steps = [(DOWNLOAD, "downloading", 0.25), (warming_up, "warming_up", None)]
    for loading, stage, share in steps:
        await queue.announce(replace(starting, loading=to_plain([loading])))

        async def is_told(stage: str = stage, share: float | None = share) -> bool:
            # Rows that were read just before may still count.
            waiting = await queue.waiting(request)
            return (waiting.stage, waiting.share) == (stage, share)

        await eventually(is_told)


async def test_who_waits_for_weights_that_a_ready_replica_brings_waits_for_a_cold_start(
    make: Make,
) -> None:
    queue, other = await make(), await make()
    await queue.submit(new())
    key = (await lease(queue)).key
    own, others = await queue.submit(new()), await queue.submit(new(endpoint="fal-ai/wan"))
    await queue.report(replace(report(key), loading=to_plain([DOWNLOAD]), detail="downloading it"))

    async def shown(watcher: Queue) -> bool:
        waiting = await watcher.waiting(await watcher.get(TENANT, own.id))
        seen = (waiting.reason, waiting.stage, waiting.share)
        return seen == (WaitReason.COLD_START, "downloading", 0.25)

    await eventually(lambda: shown(queue))
    if isinstance(queue, PostgresQueue):  # the fake has one process
        await eventually(lambda: shown(other))
    waiting = await queue.waiting(others)
    assert (waiting.reason, waiting.stage, waiting.detail) == (
        WaitReason.BUSY,
        None,
        "downloading it",
    )


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
