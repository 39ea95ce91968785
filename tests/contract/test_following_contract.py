"""Contract of coalesced requests, for every ``Queue``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Overloaded, RequestActive, RequestNotFound
from serve_app.domain.lease import Lease
from serve_app.domain.outcome import Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import CancelVerdict, Priority, Request, State, WaitReason
from serve_app.postgres.database import Database
from tests.contract.queues import Make
from tests.contract.test_reuse_contract import image, reusable_request, run_request
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new, report

PATIENCE_S = 30.0
"""Ends what hangs, also on a machine that stands still for seconds."""


@pytest.fixture
async def queue(make: Make) -> Queue:
    """Queue whose leases do not run out, however slow the machine."""
    return await make(LONG_LEASES)


async def pair(queue: Queue, **changes: Any) -> tuple[Lease, Request]:
    """A running request, and one coalesced with it."""
    await queue.submit(reusable_request())
    granted = await lease(queue)
    return granted, await queue.submit(reusable_request(**changes))


async def wait_for_end(queue: Queue, request_id: str, tenant: str = TENANT) -> Request:
    request = await queue.wait(tenant, request_id, PATIENCE_S)
    assert request.state.final, request
    return request


async def until_it_follows(queue: Queue, request_id: str, leader: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await queue.get(TENANT, request_id)).follows != leader:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def goes_on(queue: Queue, *ids: str) -> str:
    """Id of the request that is no longer coalesced."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for id_ in ids:
                if (await queue.get(TENANT, id_)).follows is None:
                    return id_
            await asyncio.sleep(0.01)


async def test_who_comes_while_the_same_runs_gets_its_outcome(queue: Queue) -> None:
    granted, follower = await pair(queue)
    assert (follower.state, follower.follows) == (State.QUEUED, granted.request_id)
    assert not (await queue.ask(ask(3))).leases
    await queue.finish(make_finish(granted.key, image(granted.request_id)))
    reused = await wait_for_end(queue, follower.id)
    leader = await queue.get(TENANT, granted.request_id)
    assert leader.outcome is not None
    assert (reused.state, reused.reuses, reused.follows) == (State.SUCCEEDED, leader.id, None)
    assert reused.outcome == replace(leader.outcome, usage=Usage())
    assert reused.attempt == 0
    lines = await queue.lines(TENANT, follower.id)
    assert [line.sequence for line in lines] == [1, 2, 3]
    assert leader.id in lines[1].message
    assert leader.id in lines[2].message
    assert lines[2].state is State.SUCCEEDED


async def test_who_comes_while_the_same_is_queued_follows_it_too(queue: Queue) -> None:
    first = await queue.submit(reusable_request())
    others = [await queue.submit(reusable_request()) for _ in range(3)]
    assert {request.follows for request in others} == {first.id}
    (granted,) = (await queue.ask(ask(9))).leases
    assert granted.request_id == first.id
    await queue.finish(make_finish(granted.key))
    for follower in others:
        assert (await wait_for_end(queue, follower.id)).reuses == first.id


async def test_of_many_that_come_at_once_one_is_made(queue: Queue) -> None:
    asking = asyncio.create_task(queue.ask(ask(50)))
    await asyncio.sleep(0.05)
    stored = await asyncio.gather(*(queue.submit(reusable_request()) for _ in range(50)))
    leases = [*(await asking).leases]
    leases += (await queue.ask(ask(50))).leases
    (granted,) = leases
    assert sum(request.follows is None for request in stored) == 1
    await queue.finish(make_finish(granted.key))
    for follower in stored:
        assert (await wait_for_end(queue, follower.id)).state is State.SUCCEEDED
    assert not (await queue.ask(ask(50))).leases


async def test_another_wish_or_tenant_follows_no_other(queue: Queue) -> None:
    await pair(queue)
    for other in (reusable_request(2), reusable_request(tenant="bob"), new()):
        assert (await queue.submit(other)).follows is None


async def test_who_is_to_go_first_does_not_wait_for_who_is_not(queue: Queue) -> None:
    low = await queue.submit(reusable_request(priority=Priority.LOW))
    high = await queue.submit(reusable_request(priority=Priority.HIGH))
    assert high.follows is None
    assert (await queue.submit(reusable_request())).follows == high.id
    leases = (await queue.ask(ask(9))).leases
    assert [grant.request_id for grant in leases] == [high.id, low.id]
    assert (await queue.submit(reusable_request(priority=Priority.HIGH))).follows is not None


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_when_it_fails_the_next_is_made_and_the_rest_follow_that(
    queue: Queue, how: str
) -> None:
    granted, second = await pair(queue)
    third = await queue.submit(reusable_request())
    if how == "cancelled":
        await queue.cancel(TENANT, granted.request_id)
        await queue.finish(make_finish(granted.key, failure("cancelled")))
    else:
        await queue.finish(make_finish(granted.key, failure()))
    assert await goes_on(queue, second.id, third.id) == second.id
    await until_it_follows(queue, third.id, second.id)
    again = await lease(queue)
    assert again.request_id == second.id
    await queue.finish(make_finish(again.key, image(second.id)))
    assert (await wait_for_end(queue, second.id)).reuses is None
    assert (await wait_for_end(queue, third.id)).reuses == second.id
    assert any("by itself" in line.message for line in await queue.lines(TENANT, second.id))


async def test_when_a_queued_one_is_cancelled_the_next_is_made(queue: Queue) -> None:
    first, second = [await queue.submit(reusable_request()) for _ in range(2)]
    await queue.cancel(TENANT, first.id)
    assert await goes_on(queue, second.id) == second.id
    assert (await lease(queue)).request_id == second.id


async def test_no_request_joins_one_that_is_being_cancelled(queue: Queue) -> None:
    granted, _ = await pair(queue)
    await queue.cancel(TENANT, granted.request_id)
    assert (await queue.submit(reusable_request())).follows is None


async def test_a_cancel_of_one_that_follows_leaves_the_other_alone(queue: Queue) -> None:
    granted, follower = await pair(queue)
    assert await queue.cancel(TENANT, follower.id) is CancelVerdict.CANCELLED
    cancelled = await queue.get(TENANT, follower.id)
    assert (cancelled.state, cancelled.follows) == (State.CANCELLED, None)
    running = await queue.get(TENANT, granted.request_id)
    assert (running.state, running.cancel_requested) == (State.RUNNING, False)
    assert not (await queue.report(report(granted.key))).cancelled


async def test_a_leader_that_is_tried_again_leads_on(make: Make, liveness: FakeLiveness) -> None:
    queue = await make(LONG_LEASES)
    granted, follower = await pair(queue)
    await queue.hand_back(granted.key, "r1", "draining")
    (again,) = (await queue.ask(ask(9, replica="r2"))).leases
    assert again.key.attempt == 2
    await queue.finish(make_finish(again.key))
    assert (await wait_for_end(queue, follower.id)).reuses == granted.request_id


async def test_it_says_why_it_waits_and_for_whom(queue: Queue) -> None:
    first, second = [await queue.submit(reusable_request()) for _ in range(2)]
    waiting = await queue.waiting(second)
    assert (waiting.position, waiting.reason) == (0, WaitReason.FOLLOWING)
    assert first.id in waiting.detail
    await lease(queue)
    waiting = await queue.waiting(second)
    assert (waiting.position, waiting.reason) == (0, WaitReason.FOLLOWING)
    assert (await queue.demand())["studio"].queued == 0


async def test_it_counts_as_one_that_waits(make: Make) -> None:
    queue = await make(replace(LONG_LEASES, max_waiting_per_tenant=2))
    await pair(queue)
    await queue.submit(reusable_request())
    with pytest.raises(Overloaded):
        await queue.submit(reusable_request())


async def test_it_is_listed_as_queued_and_cannot_be_deleted(queue: Queue) -> None:
    granted, follower = await pair(queue)
    assert [listed.id for listed in await queue.page(TENANT, states=[State.QUEUED])] == [
        follower.id
    ]
    assert {listed.id for listed in await queue.page(TENANT)} == {granted.request_id, follower.id}
    with pytest.raises(RequestActive, match="queued"):
        await queue.delete(TENANT, follower.id)


async def test_its_time_to_start_is_over_only_while_the_other_is_queued(queue: Queue) -> None:
    _, started = await pair(queue, start_within_s=0.1)
    await queue.submit(reusable_request(2))
    late = await queue.submit(reusable_request(2, start_within_s=0.1))
    assert (await wait_for_end(queue, late.id)).state is State.EXPIRED
    assert (await queue.get(TENANT, started.id)).state is State.QUEUED


async def test_its_time_in_all_ends_it_alone(queue: Queue) -> None:
    granted, late = await pair(queue, end_within_s=0.1)
    assert (await wait_for_end(queue, late.id)).state is State.EXPIRED
    assert (await queue.get(TENANT, granted.request_id)).state is State.RUNNING


async def test_an_operator_may_fail_it(queue: Queue) -> None:
    granted, follower = await pair(queue)
    assert await queue.operations.requeue(follower.id, Actor("root")) is State.QUEUED
    assert await queue.operations.fail(follower.id, Actor("root"), "no") is State.FAILED
    assert (await queue.get(TENANT, granted.request_id)).state is State.RUNNING


async def test_with_an_idempotency_key_it_is_stored_once(queue: Queue) -> None:
    await pair(queue)
    keyed = {"idempotency_key": "k", "body_digest": bytes(32)}
    first, again = [await queue.submit(reusable_request(**keyed)) for _ in range(2)]
    assert (first.id, first.follows is None) == (again.id, False)


@pytest.mark.long
@pytest.mark.parametrize("first_gone", ["maker", "other"])
async def test_files_are_kept_until_the_last_that_has_them_is_deleted(
    queue: Queue, first_gone: str
) -> None:
    maker = await run_request(queue, reusable_request())
    other = await queue.submit(reusable_request())
    ids = [maker.id, other.id] if first_gone == "maker" else [other.id, maker.id]
    assert await queue.delete(TENANT, ids[0]) == []
    left = await queue.get(TENANT, ids[1])
    assert left.outcome is not None
    assert left.outcome.artifacts
    assert await queue.delete(TENANT, ids[1]) == [f"{maker.id}/1/a.png"]
    with pytest.raises(RequestNotFound):
        await queue.get(TENANT, ids[1])


async def test_a_deleted_maker_passes_nothing_on(queue: Queue) -> None:
    maker = await run_request(queue, reusable_request())
    await queue.submit(reusable_request())
    await queue.delete(TENANT, maker.id)
    again = await queue.submit(reusable_request())
    assert (again.state, again.reuses, again.follows) == (State.QUEUED, None, None)


async def test_each_has_one_usage_line_and_those_that_follow_pay_nothing(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LONG_LEASES)
    granted, follower = await pair(queue)
    gone = await queue.submit(reusable_request())
    await database.rows("UPDATE requests SET webhook_url = 'https://hook'")
    await queue.cancel(TENANT, gone.id)
    await queue.finish(make_finish(granted.key, image(granted.request_id)))
    await wait_for_end(queue, follower.id)
    rows = await database.rows("SELECT request_id::text, state, units FROM usage")
    assert sorted(rows) == sorted(
        [
            (granted.request_id, "succeeded", 1.0),
            (follower.id, "succeeded", 0.0),
            (gone.id, "cancelled", 0.0),
        ]
    )
    notified = await database.rows("SELECT request_id::text FROM webhook_deliveries")
    assert sorted(notified) == sorted(
        (request_id,) for request_id in (granted.request_id, follower.id, gone.id)
    )


async def test_the_process_that_ended_it_may_die_before_it_looks_after_those_that_follow(
    ingress: Ingress,
) -> None:
    queue = await ingress(
        LONG_LEASES, edit=lambda queue: setattr(queue.parts.after, "settle", nothing)
    )
    granted, follower = await pair(queue)
    cancelled, left = [await queue.submit(reusable_request(2)) for _ in range(2)]
    await queue.finish(make_finish(granted.key))
    await queue.cancel(TENANT, cancelled.id)
    assert (await queue.get(TENANT, follower.id)).state is State.QUEUED
    another = await ingress()
    assert (await wait_for_end(another, follower.id)).reuses == granted.request_id
    assert await goes_on(another, left.id) == left.id


async def nothing(groups: object = None) -> list[object]:
    """Settle nothing, like a process that was killed."""
    return []


async def test_files_that_are_gone_before_they_were_shared_are_made_anew(
    ingress: Ingress,
) -> None:
    queue = await ingress(
        LONG_LEASES, edit=lambda queue: setattr(queue.parts.after, "settle", nothing)
    )
    granted, follower = await pair(queue)
    await queue.finish(make_finish(granted.key, image(granted.request_id)))
    assert await queue.delete(TENANT, granted.request_id) == [f"{granted.request_id}/1/a.png"]
    another = await ingress()
    assert await goes_on(another, follower.id) == follower.id
    assert (await lease(another)).request_id == follower.id
