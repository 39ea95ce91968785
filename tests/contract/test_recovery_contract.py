"""Contract of timeouts and dead replicas, for every ``Queue``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from serve_app.domain.lease import Lease, Presence, ReplicaStage, Verdict
from serve_app.domain.ports import Queue
from serve_app.domain.request import State
from tests.contract.queues import Make
from tests.contract.waiting import eventually
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import LONG_LEASES, QUICK, UNCONFIRMED
from tests.queue.requests import (
    TENANT,
    ask,
    lease,
    make_finish,
    new,
    report,
)


async def test_a_lease_that_runs_out_is_tried_again_and_no_failure_of_the_request(
    make: Make,
) -> None:
    queue = await make(QUICK)
    request = await queue.submit(new())
    old = (await lease(queue)).key

    async def queued_again() -> bool:
        return (await queue.get(TENANT, request.id)).state is State.QUEUED

    await eventually(queued_again)
    assert (await queue.get(TENANT, request.id)).failures == 0
    assert await queue.finish(make_finish(old)) is Verdict.FENCED
    again = await lease(queue, "r2")
    assert again.attempt == 2
    assert not again.alone  # it has not ended its replica


async def test_a_lease_that_is_renewed_lasts(make: Make) -> None:
    queue = await make(QUICK)

    async def outlived() -> bool:
        """Renew a lease for three times its length. False if the machine stood still meanwhile."""
        request = await queue.submit(new())
        key = (await lease(queue)).key
        renewed = began = time.monotonic()
        while time.monotonic() - began < 3 * QUICK.lease_s:
            fenced = (await queue.report(report(key))).fenced
            if time.monotonic() - renewed > QUICK.lease_s / 2:
                await queue.cancel(TENANT, request.id)
                await queue.hand_back(key, "r1", "late")
                return False
            assert not fenced
            renewed = time.monotonic()
            await asyncio.sleep(QUICK.lease_s / 20)
        finished = await queue.finish(make_finish(key))
        if finished is not Verdict.ACCEPTED and time.monotonic() - renewed > QUICK.lease_s / 2:
            await queue.cancel(TENANT, request.id)
            return False
        assert finished is Verdict.ACCEPTED
        assert (await queue.get(TENANT, request.id)).failures == 0
        return True

    await eventually(outlived)


async def test_an_unconfirmed_lease_that_runs_out_is_no_failure(make: Make) -> None:
    queue = await make(UNCONFIRMED)
    request = await queue.submit(new())
    assert (await queue.ask(ask(1))).leases

    async def queued_again() -> bool:
        return (await queue.get(TENANT, request.id)).state is State.QUEUED

    await eventually(queued_again)
    assert (await queue.get(TENANT, request.id)).failures == 0


async def test_a_request_that_no_replica_ever_confirms_fails_in_the_end(make: Make) -> None:
    queue = await make(replace(UNCONFIRMED, max_unconfirmed=2))
    request = await queue.submit(new())
    for replica in ("r1", "r2"):
        while not (await queue.ask(ask(1, replica=replica))).leases:
            pass
    ended = await queue.wait(TENANT, request.id, 60.0)
    assert ended.state is State.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "poison"


async def test_one_replica_that_confirms_nothing_fails_no_request(make: Make) -> None:
    queue = await make(replace(UNCONFIRMED, max_unconfirmed=2))
    request = await queue.submit(new())
    for _ in range(5):  # the fifth lease shows that the request has outlived four
        while not (await queue.ask(ask(1))).leases:
            pass
    seen = await queue.get(TENANT, request.id)
    assert (seen.state.final, seen.failures) == (False, 0)


async def test_the_leases_of_a_dead_replica_end_at_once(make: Make, liveness: FakeLiveness) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new())
    await lease(queue)
    liveness.buried.add("actor-r1")

    async def queued_again() -> bool:
        return (await queue.get(TENANT, request.id)).state is State.QUEUED

    await eventually(queued_again)
    assert (await queue.get(TENANT, request.id)).failures == 1


async def test_an_ask_that_a_dead_replica_left_open_is_given_nothing(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(replace(LONG_LEASES, ask_wait_s=60.0))
    request = await queue.submit(new())
    granted = await lease(queue)
    left_open = asyncio.create_task(queue.ask(ask(1, granted.key)))
    other = asyncio.create_task(queue.ask(ask(1, replica="r2")))
    await asyncio.sleep(0)
    liveness.buried.add("actor-r1")
    (again,) = (await other).leases
    assert again.request_id == request.id
    assert again.attempt >= 2  # a lease under way to the dead replica is undone
    assert not (await left_open).leases


async def lease_and_confirm(queue: Queue, replica: str) -> Lease:
    (granted,) = (await queue.ask(ask(1, replica=replica))).leases
    await queue.report(report(granted.key, replica=replica))
    return granted


async def test_requests_never_fail_for_nodes_that_fail_under_them(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new())
    for number in range(2 * LONG_LEASES.max_failures):
        granted = await lease_and_confirm(queue, f"r{number}")
        liveness.cut_off.add(f"actor-r{number}")
        while (seen := await queue.wait_for_change(TENANT, request.id, 0.1)).state is State.RUNNING:
            pass
        assert (seen.state, seen.failures, seen.alone) == (State.QUEUED, 0, False)
        assert await queue.finish(make_finish(granted.key)) is Verdict.FENCED
    await queue.finish(make_finish((await lease_and_confirm(queue, "last")).key, replica="last"))
    assert (await queue.get(TENANT, request.id)).state is State.SUCCEEDED


async def test_a_replica_that_was_given_up_and_lives_on_gets_nothing_and_is_told_to_end(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(replace(LONG_LEASES, ask_wait_s=60.0))
    request = await queue.submit(new())
    granted = await lease_and_confirm(queue, "r1")
    left_open = asyncio.create_task(queue.ask(ask(0, granted.key, replica="r1")))
    await asyncio.sleep(0)
    liveness.cut_off.add("actor-r1")
    assert (await left_open).exit == "its node failed"
    again = await queue.ask(ask(2, replica="r1"))
    assert (again.leases, again.exit) == ((), "its node failed")
    announced = await queue.announce(Presence("r1", "actor-r1", "studio", ReplicaStage.DRAINING))
    assert announced is not None
    assert announced.exit == "its node failed"
    assert (await queue.report(report(granted.key, replica="r1"))).fenced == (granted.key,)
    (elsewhere,) = (await queue.ask(ask(1, replica="r2"))).leases
    assert elsewhere.request_id == request.id


async def test_what_ran_when_the_whole_installation_was_stopped_has_not_failed(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new())
    leased = await lease(queue)
    await queue.report(report(leased.key))
    liveness.stopped.add("actor-r1")

    async def queued_again() -> bool:
        return (await queue.get(TENANT, request.id)).state is State.QUEUED

    await eventually(queued_again)
    assert (await queue.get(TENANT, request.id)).failures == 0


async def test_a_request_that_ends_its_replica_each_time_is_poison(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new())
    for number in range(QUICK.max_failures):
        replica = f"r{number}"
        while True:
            work = await queue.ask(ask(1, replica=replica))
            if work.leases:
                break
        await queue.report(report(work.leases[0].key, replica=replica))
        liveness.buried.add(f"actor-{replica}")
    ended = await queue.wait(TENANT, request.id, 60.0)
    assert ended.state is State.FAILED
    assert ended.failures == QUICK.max_failures
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "poison"


async def test_a_request_that_does_not_start_in_time_expires(queue: Queue) -> None:
    late = await queue.submit(new(start_within_s=0.15))
    patient = await queue.submit(new(start_within_s=60.0))
    ended = await queue.wait(TENANT, late.id, 60.0)
    assert ended.state is State.EXPIRED
    assert ended.outcome is not None
    assert (await queue.get(TENANT, patient.id)).state is State.QUEUED


async def test_a_request_that_started_in_time_does_not_expire(queue: Queue) -> None:
    request = await queue.submit(new(start_within_s=3.0))
    key = (await lease(queue)).key
    await queue.hand_back(key, "r1", "draining")
    await asyncio.sleep(3.2)
    assert (await queue.get(TENANT, request.id)).state is State.QUEUED
