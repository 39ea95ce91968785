"""Replicas that die at the worst moment, and requests that make them die."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from serve_app.domain.request import State
from tests.chaos.replica import Point, Replica
from tests.crash.scene import LIMITS, Scene

DEATH_ALONE = replace(LIMITS, lease_s=600.0, first_lease_s=600.0)
"""No lease runs out: a death alone ends an attempt."""


async def test_a_replica_that_dies_between_upload_and_finish_leaves_its_files_out_of_the_outcome(
    scene: Scene,
) -> None:
    (queue,) = await scene.ingresses(scene.near, limits=DEATH_ALONE)
    request = await scene.submit(queue)
    doomed = Replica(scene.house, "doomed", dies_at=Point.UPLOADED).start()
    await doomed.dead.wait()
    assert len(scene.house.objects) == 1
    async with scene.replicas(1):
        ended = await scene.final(request.id)
    assert (ended.state, ended.failures) == (State.SUCCEEDED, 1)
    assert ended.attempt >= 2  # a lease that was on its way to the dead one is undone
    await scene.check()


async def test_a_replica_that_dies_with_a_lease_that_it_never_confirmed_costs_no_failure(
    scene: Scene,
) -> None:
    (queue,) = await scene.ingresses(scene.near, limits=DEATH_ALONE)
    request = await scene.submit(queue)
    doomed = Replica(scene.house, "doomed", dies_at=Point.LEASED).start()
    await doomed.dead.wait()
    async with scene.replicas(1):
        ended = await scene.final(request.id)
    assert (ended.state, ended.failures) == (State.SUCCEEDED, 0)
    assert ended.attempt >= 2
    await scene.check()


async def test_a_replica_that_stood_still_past_its_lease_is_fenced_and_clears_up_after_itself(
    scene: Scene,
) -> None:
    (queue,) = await scene.ingresses(scene.near)
    request = await scene.submit(queue)
    async with Replica(scene.house, "frozen", steps=1, step_s=0.05) as frozen:
        while not scene.house.history.leases:  # noqa: ASYNC110 - the replica adds to it
            await asyncio.sleep(0.01)
        frozen.freeze()
        async with scene.replicas(1):
            ended = await scene.final(request.id)
            frozen.thaw()
            async with asyncio.timeout(60):
                while not frozen.fenced:  # noqa: ASYNC110 - the replica adds to it
                    await asyncio.sleep(0.01)
            await scene.check()
    assert ended.attempt >= 2
    assert [*scene.house.objects] == [ended.outcome.artifacts[0].key]  # type: ignore[union-attr]


async def test_one_deadly_request_among_many_ends_as_poison_and_takes_no_other_with_it(
    scene: Scene,
) -> None:
    (queue,) = await scene.ingresses(scene.near, limits=replace(LIMITS, lease_s=600.0))
    others = [await scene.submit(queue) for _ in range(3)]
    deadly = await scene.submit(queue, input={"deadly": True})
    others += [await scene.submit(queue) for _ in range(4)]
    async with scene.replicas(1, slots=4):
        assert (await scene.final(deadly.id)).outcome.failure.code == "poison"  # type: ignore[union-attr]
        for request in others:
            assert (await scene.final(request.id)).state is State.SUCCEEDED
    await scene.check()
