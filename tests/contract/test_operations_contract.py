"""Contract of operator actions: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import AlreadyFinal, EndpointDraining, RequestActive, RequestNotFound
from serve_app.domain.lease import Signal, SignalKind, Verdict
from serve_app.domain.operations import PauseKind, WarmTarget, WeightsLevel
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, State, WaitReason
from tests.contract.queues import Make
from tests.contract.test_reuse_contract import reusable_request
from tests.contract.waiting import eventually
from tests.queue.database import LONG_ASKS, LONG_LEASES
from tests.queue.requests import POOL, TENANT, ask, failure, lease, make_finish, new, new_id, report

OTHER = "fal-ai/flux/dev"
ENDPOINT = new().endpoint
ADMIN = Actor("key-1", "10.0.0.7")


async def acts(queue: Queue) -> list[tuple[Actor, str, str]]:
    """Audited actions, oldest first."""
    entries = await queue.operations.audit()
    return [
        (Actor(entry.actor, entry.address), entry.action, entry.subject)
        for entry in reversed(entries)
    ]


async def test_what_is_paused_is_accepted_and_waits_while_others_go_on(make: Make) -> None:
    queue = await make()
    await queue.operations.pause(ENDPOINT, ADMIN)
    paused = [(await queue.submit(new())).id for _ in range(40)]  # more than the look-ahead
    other = (await queue.submit(new(endpoint=OTHER))).id
    work = await queue.ask(ask(4))
    assert [grant.request_id for grant in work.leases] == [other]
    assert not (await queue.ask(ask(4, work.leases[0].key))).leases
    request = await queue.get(TENANT, paused[0])
    waiting = await queue.waiting(request)
    assert (request.state, waiting.reason) == (State.QUEUED, WaitReason.PAUSED)
    assert (waiting.starts_at, waiting.ends_at) == (None, None)


async def test_tenants_whose_requests_are_paused_hold_no_one_up(make: Make) -> None:
    queue = await make()
    await queue.operations.pause(ENDPOINT, ADMIN)
    for n in range(5):
        await queue.submit(new(tenant=f"tenant-{n}"))
    other = (await queue.submit(new(endpoint=OTHER))).id
    assert [grant.request_id for grant in (await queue.ask(ask(1))).leases] == [other]


async def test_a_request_is_not_leased_at_its_submit_when_it_is_paused(make: Make) -> None:
    queue = await make()
    await queue.operations.pause(ENDPOINT, ADMIN)
    asking = asyncio.create_task(queue.ask(ask(1)))
    await asyncio.sleep(0.05)
    await queue.submit(new())
    assert not (await asking).leases


async def test_a_resume_lets_go_on_what_waited(make: Make) -> None:
    queue = await make(LONG_ASKS)
    await queue.operations.pause(ENDPOINT, ADMIN)
    request = await queue.submit(new())
    assert not (await queue.ask(replace(ask(1), wait_s=0.05))).leases
    asking = asyncio.create_task(queue.ask(ask(1)))
    assert await queue.operations.resume(ENDPOINT, ADMIN)
    assert [grant.request_id for grant in (await asking).leases] == [request.id]
    assert not await queue.operations.resume(ENDPOINT, ADMIN)
    acted = [(ADMIN, "endpoint.pause", ENDPOINT), (ADMIN, "endpoint.resume", ENDPOINT)]
    assert await acts(queue) == acted


async def test_what_runs_goes_on_when_its_endpoint_is_paused(make: Make) -> None:
    queue = await make()
    await queue.submit(new())
    granted = await lease(queue)
    await queue.operations.pause(ENDPOINT, ADMIN)
    assert not (await queue.report(report(granted.key))).fenced
    assert await queue.finish(make_finish(granted.key)) is Verdict.ACCEPTED


async def test_what_drains_is_served_and_accepts_nothing(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    halt = await queue.operations.drain(ENDPOINT, ADMIN)
    assert (halt.endpoint, halt.kind, halt.actor) == (ENDPOINT, PauseKind.DRAINING, ADMIN.key_id)
    with pytest.raises(EndpointDraining, match=ENDPOINT):
        await queue.submit(new())
    await queue.submit(new(endpoint=OTHER))
    assert request.id in {grant.request_id for grant in (await queue.ask(ask(2))).leases}
    await queue.operations.resume(ENDPOINT, ADMIN)
    await queue.submit(new())


async def test_paused_requests_call_for_no_replicas(make: Make) -> None:
    queue = await make()
    await queue.operations.pause(ENDPOINT, ADMIN)
    await queue.submit(new())
    await queue.submit(new(endpoint=OTHER))

    async def one() -> bool:
        return (await queue.demand())[POOL].queued == 1

    await eventually(one)


async def test_a_requeued_request_is_fenced_and_runs_again_without_a_failure(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    granted = await lease(queue)
    assert await queue.operations.requeue(request.id, ADMIN) is State.QUEUED
    signals = (await queue.ask(ask(0, granted.key))).signals
    assert signals == (Signal(SignalKind.FENCED, granted.key),)
    assert await queue.finish(make_finish(granted.key)) is Verdict.FENCED
    assert (await queue.report(report(granted.key))).fenced == (granted.key,)
    again = await lease(queue)
    assert (again.request_id, again.attempt) == (request.id, 2)
    assert (await queue.get(TENANT, request.id)).failures == 0
    assert await queue.finish(make_finish(again.key)) is Verdict.ACCEPTED
    assert await acts(queue) == [(ADMIN, "request.requeue", request.id)]


async def test_what_is_queued_needs_no_requeue(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    assert await queue.operations.requeue(request.id, ADMIN) is State.QUEUED
    assert await acts(queue) == []


async def test_a_request_that_waits_goes_before_others_of_its_tenant_by_its_new_priority(
    make: Make,
) -> None:
    queue = await make()
    first, second, third = [(await queue.submit(new())).id for _ in range(3)]
    assert await queue.operations.prioritise(third, Priority.HIGH, ADMIN) is State.QUEUED
    assert await queue.operations.prioritise(first, Priority.LOW, ADMIN) is State.QUEUED
    assert await queue.operations.prioritise(second, Priority.NORMAL, ADMIN) is State.QUEUED
    request = await queue.get(TENANT, third)
    assert request.priority is Priority.HIGH
    order = [(await lease(queue)).request_id for _ in range(3)]
    assert order == [third, second, first]
    acted = [(ADMIN, "request.prioritise", third), (ADMIN, "request.prioritise", first)]
    assert await acts(queue) == acted  # the one that had it already is not written
    lines = await queue.lines(TENANT, third)
    assert any("changed the priority to high" in line.message for line in lines)


async def test_changing_the_priority_twice_leads_back_to_the_old_place(make: Make) -> None:
    queue = await make()
    ids = [(await queue.submit(new())).id for _ in range(3)]
    for priority in (Priority.HIGH, Priority.LOW, Priority.NORMAL):
        await queue.operations.prioritise(ids[1], priority, ADMIN)
    assert [(await lease(queue)).request_id for _ in range(3)] == ids


async def test_what_runs_or_is_a_session_or_has_ended_has_no_place_to_change(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    granted = await lease(queue)
    with pytest.raises(RequestActive, match="runs already"):
        await queue.operations.prioritise(request.id, Priority.HIGH, ADMIN)
    await queue.finish(make_finish(granted.key))
    with pytest.raises(AlreadyFinal):
        await queue.operations.prioritise(request.id, Priority.HIGH, ADMIN)
    with pytest.raises(RequestNotFound):
        await queue.operations.prioritise(new_id(), Priority.HIGH, ADMIN)
    session = await queue.submit(new(priority=Priority.REALTIME))
    with pytest.raises(RequestActive, match="realtime"):
        await queue.operations.prioritise(session.id, Priority.LOW, ADMIN)


@pytest.mark.parametrize("runs", [False, True])
async def test_a_request_is_failed_by_hand_with_the_reason(make: Make, runs: bool) -> None:
    queue = await make()
    request = await queue.submit(new())
    key = (await lease(queue)).key if runs else None
    waiting = asyncio.create_task(queue.wait(TENANT, request.id, 10.0))
    assert await queue.operations.fail(request.id, ADMIN, "It hangs") is State.FAILED
    ended = await waiting
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "failed_by_hand"
    assert "It hangs" in ended.outcome.failure.message
    if key is not None:
        assert await queue.finish(make_finish(key)) is Verdict.FENCED
        assert await queue.finish(make_finish(key, failure())) is Verdict.FENCED
    assert (await queue.get(TENANT, request.id)).state is State.FAILED
    assert not (await queue.ask(ask(1))).leases
    (act,) = await queue.operations.audit()
    assert (act.action, act.subject, act.detail) == (
        "request.fail", request.id, {"reason": "It hangs"},
    )  # fmt: skip
    lines = await queue.lines(TENANT, request.id)
    assert [line.state for line in lines].count(State.FAILED) == 1


async def test_what_has_ended_is_left_alone(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    await queue.cancel(TENANT, request.id)
    with pytest.raises(AlreadyFinal, match="cancelled"):
        await queue.operations.requeue(request.id, ADMIN)
    with pytest.raises(AlreadyFinal):
        await queue.operations.fail(request.id, ADMIN, "")
    for unknown in (new_id(), "x"):
        with pytest.raises(RequestNotFound):
            await queue.operations.fail(unknown, ADMIN, "")
        with pytest.raises(RequestNotFound):
            await queue.operations.requeue(unknown, ADMIN)
    assert await acts(queue) == []


async def test_the_overview_shows_lanes_leases_and_halts(make: Make) -> None:
    queue = await make()
    await queue.submit(new(tenant="ann"))
    granted = await lease(queue, replica="r7")  # before others wait: equal lanes have no order
    for tenant in ("ann", "ann", "bob"):
        await queue.submit(new(tenant=tenant))
    await queue.operations.pause(OTHER, ADMIN)
    seen = await queue.operations.overview()
    figures = [(lane.pool, lane.tenant, lane.queued, lane.running) for lane in seen.lanes]
    assert figures == [(POOL, "ann", 2, 1), (POOL, "bob", 1, 0)]
    assert all(lane.oldest_s is not None and lane.oldest_s >= 0 for lane in seen.lanes)
    (running,) = seen.leases
    assert (running.request_id, running.attempt) == (granted.request_id, 1)
    assert (running.replica_id, running.tenant) == ("r7", "ann")
    assert 0 <= running.age_s < LONG_LEASES.first_lease_s
    assert 0 < running.expires_in_s <= LONG_LEASES.first_lease_s
    assert [(halt.endpoint, halt.kind) for halt in seen.halts] == [(OTHER, PauseKind.PAUSED)]


async def test_the_overview_shows_what_an_operator_has_just_done(make: Make) -> None:
    queue = await make()
    for _ in range(3):
        await queue.submit(new())
    granted = await lease(queue)

    async def figures() -> list[tuple[int, int]]:
        return [(lane.queued, lane.running) for lane in (await queue.operations.overview()).lanes]

    assert await figures() == [(2, 1)]
    await queue.operations.requeue(granted.request_id, ADMIN)
    assert await figures() == [(3, 0)]
    await queue.operations.fail(granted.request_id, ADMIN, "")
    assert await figures() == [(2, 0)]
    (first, *_) = await queue.operations.waiting()
    assert await queue.operations.cancel(TENANT, first.request_id, ADMIN) == "cancelled"
    assert await figures() == [(1, 0)]
    await queue.operations.pause(ENDPOINT, ADMIN)
    assert [halt.endpoint for halt in (await queue.operations.overview()).halts] == [ENDPOINT]


async def test_the_audit_is_read_in_pages(make: Make) -> None:
    queue = await make()
    for n in range(5):
        await queue.operations.pause(f"e/{n}", ADMIN)
    first = await queue.operations.audit(limit=3)
    rest = await queue.operations.audit(before=first[-1].id, limit=3)
    assert [act.subject for act in (*first, *rest)] == ["e/4", "e/3", "e/2", "e/1", "e/0"]


async def test_a_warm_target_stands_until_it_is_ended_or_its_time_is_over(queue: Queue) -> None:
    operations, until = queue.operations, datetime.now(UTC) + timedelta(hours=1)
    await operations.set_warm(WarmTarget(OTHER, 1, WeightsLevel.DISK, None), ADMIN)
    stored = await operations.set_warm(WarmTarget(OTHER, 2, WeightsLevel.HOT, until), ADMIN)
    assert (stored.replicas, stored.level, stored.actor) == (2, WeightsLevel.HOT, ADMIN.key_id)
    assert stored.at is not None
    past = WarmTarget(ENDPOINT, 1, WeightsLevel.HOT, datetime.now(UTC) - timedelta(seconds=1))
    await operations.set_warm(past, ADMIN)
    assert await operations.warm_targets() == [stored]
    assert not await operations.end_warm(ENDPOINT, ADMIN)
    assert await operations.end_warm(OTHER, ADMIN)
    assert not await operations.end_warm(OTHER, ADMIN)
    assert await operations.warm_targets() == []
    assert await acts(queue) == [
        (ADMIN, "warm.set", OTHER),
        (ADMIN, "warm.set", OTHER),
        (ADMIN, "warm.set", ENDPOINT),
        (ADMIN, "warm.end", OTHER),
    ]


async def waiting(queue: Queue, **chosen: Any) -> list[str]:
    """Ids over all pages of two."""
    ids: list[str] = []
    after = 0
    while page := await queue.operations.waiting(**chosen, after=after, limit=2):
        ids += [entry.request_id for entry in page]
        after = page[-1].place
    return ids


async def test_what_waits_is_listed_from_the_longest_wait_by_tenant_and_endpoint(
    make: Make,
) -> None:
    queue = await make()
    first = (await queue.submit(new(id=new_id()))).id
    second = (await queue.submit(new(id=new_id(), tenant="bob", priority=Priority.HIGH))).id
    third = (await queue.submit(new(id=new_id(), endpoint=OTHER, priority=Priority.LOW))).id
    fourth = (await queue.submit(new(id=new_id(), tenant="bob", pool="second"))).id
    fifth = (await queue.submit(new(id=new_id(), tenant="bob", endpoint=OTHER))).id
    gone = (await queue.submit(new(id=new_id()))).id
    await queue.cancel(TENANT, gone)
    assert await waiting(queue) == [first, second, third, fourth, fifth]
    assert await waiting(queue, tenant="bob") == [second, fourth, fifth]
    assert await waiting(queue, tenant="nobody") == []
    assert await waiting(queue, endpoints=[OTHER]) == [third, fifth]
    assert await waiting(queue, endpoints=["none/such", ENDPOINT]) == [first, second, fourth]
    assert await waiting(queue, tenant="bob", endpoints=[OTHER]) == [fifth]
    (shown,) = await queue.operations.waiting(tenant="bob", limit=1)
    request = await queue.get("bob", second)
    assert (shown.endpoint, shown.pool, shown.priority, shown.attempt, shown.created_at) == (
        *(request.endpoint, request.pool, Priority.HIGH, 0, request.created_at),
    )


async def test_a_request_that_waits_for_the_outcome_of_another_is_listed_as_waiting(
    make: Make,
) -> None:
    queue = await make(LONG_LEASES)
    await queue.submit(reusable_request())
    leader = await lease(queue)
    follower = await queue.submit(reusable_request())
    assert follower.follows == leader.request_id
    for chosen in ({}, {"tenant": TENANT}, {"endpoints": [ENDPOINT]}):
        assert await waiting(queue, **chosen) == [follower.id]
    for chosen in ({}, {"endpoints": [ENDPOINT]}):
        assert await waiting(queue, tenant="bob", **chosen) == []
