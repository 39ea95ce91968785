"""What every ``Queue`` does: run over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from serve_app.domain.errors import Overloaded, RequestNotFound
from serve_app.domain.lease import (
    Held,
    Lease,
    Presence,
    ReplicaStage,
    Signal,
    SignalKind,
    Verdict,
    Work,
)
from serve_app.domain.ports import Queue
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import CancelVerdict, Priority, State, WaitReason
from tests.contract.queues import Make
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import QUICK
from tests.queue.requests import (
    POOL,
    TENANT,
    ask,
    done,
    failure,
    lease,
    new,
    new_id,
    report,
)


async def eventually(true: Callable[[], Awaitable[bool]], patience_s: float = 5.0) -> None:
    end = time.monotonic() + patience_s
    while not await true():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.02)


# Submit


async def test_a_submitted_request_is_queued(queue: Queue) -> None:
    given = new(input={"prompt": "z\0\ud800", "a": [1, {"b": None}], "A": 0.1})
    request = await queue.submit(given)
    assert request.state is State.QUEUED
    again = await queue.get(TENANT, given.id)
    assert again == request
    assert again.input == given.input
    assert list(again.input) == ["prompt", "a", "A"]


async def test_warnings_become_lines_of_the_request_s_log(queue: Queue) -> None:
    request = await queue.submit(new(warnings=("The seed was taken modulo 2^32.", "Slow.")))
    lines = await queue.lines(TENANT, request.id)
    assert [line.sequence for line in lines] == [1, 2, 3]
    assert [line.level for line in lines] == ["INFO", "WARNING", "WARNING"]
    assert lines[1].message == "The seed was taken modulo 2^32."


async def test_a_log_line_can_be_added(queue: Queue) -> None:
    request = await queue.submit(new())
    await queue.log(request.id, "INFO", "Hello.")
    await queue.log(new_id(), "INFO", "Nobody's.")
    assert [line.message for line in await queue.lines(TENANT, request.id)][-1] == "Hello."


async def test_another_tenant_s_request_is_not_found(queue: Queue) -> None:
    request = await queue.submit(new())
    for tenant, id_ in (("bob", request.id), (TENANT, new_id()), (TENANT, "no-such-id")):
        with pytest.raises(RequestNotFound):
            await queue.get(tenant, id_)
        with pytest.raises(RequestNotFound):
            await queue.cancel(tenant, id_)
        with pytest.raises(RequestNotFound):
            await queue.lines(tenant, id_)
        with pytest.raises(RequestNotFound):
            await queue.wait(tenant, id_, 0.1)


async def test_past_the_caps_submits_are_refused(make: Make) -> None:
    queue = await make(replace(QUICK, max_waiting=3, max_waiting_per_tenant=2))
    await queue.submit(new())
    await queue.submit(new())
    with pytest.raises(Overloaded) as refused:
        await queue.submit(new())
    assert refused.value.retry_after_s >= 1.0
    await queue.submit(new(tenant="bob"))
    with pytest.raises(Overloaded):
        await queue.submit(new(tenant="eve"))
    await queue.ask(ask(1))
    await queue.submit(new(tenant="eve"))


async def test_who_wants_a_short_queue_is_refused_at_a_longer_one(make: Make) -> None:
    queue = await make()
    await queue.submit(new(pool="other"))
    burst = (queue.submit(new(), most_queued=3) for _ in range(20))
    answers = await asyncio.gather(*burst, return_exceptions=True)
    refused = [each for each in answers if isinstance(each, Overloaded)]
    assert len(refused) == 17
    assert all(each.retry_after_s >= 1.0 for each in refused)
    await queue.submit(new(), most_queued=4)
    await queue.submit(new())


async def test_what_waits_for_a_paused_endpoint_makes_no_queue_longer(make: Make) -> None:
    queue = await make()
    paused = await queue.submit(new())
    await queue.operations.pause(paused.endpoint, "operator")
    await queue.submit(new(endpoint="fal-ai/flux/dev"), most_queued=1)


async def test_a_page_is_newest_first_and_goes_on_before_an_id(queue: Queue) -> None:
    ids = [(await queue.submit(new())).id for _ in range(5)]
    await queue.submit(new(tenant="bob"))
    first = await queue.page(TENANT, limit=3)
    assert [request.id for request in first] == ids[:1:-1]
    rest = await queue.page(TENANT, before=first[-1].id, limit=3)
    assert [request.id for request in rest] == ids[1::-1]
    await queue.cancel(TENANT, ids[0])
    assert [each.id for each in await queue.page(TENANT, states=[State.CANCELLED])] == [ids[0]]


# Ask


async def test_an_ask_gets_the_oldest_of_the_highest_priority(queue: Queue) -> None:
    low = await queue.submit(new(priority=Priority.LOW))
    first = await queue.submit(new())
    second = await queue.submit(new())
    high = await queue.submit(new(priority=Priority.HIGH))
    order = [(await queue.ask(ask(1))).leases[0].request_id for _ in range(4)]
    assert order == [high.id, first.id, second.id, low.id]


async def test_an_ask_takes_as_many_as_it_has_slots_and_only_its_pool_s(queue: Queue) -> None:
    for _ in range(3):
        await queue.submit(new())
    await queue.submit(new(pool="other"))
    work = await queue.ask(ask(2))
    assert len(work.leases) == 2
    assert len((await queue.ask(ask(5))).leases) == 1


async def test_a_lease_carries_all_that_running_it_takes(queue: Queue) -> None:
    request = await queue.submit(new())
    (granted,) = (await queue.ask(ask(1))).leases
    assert granted.held == Held(request.id, 1)
    assert granted.input == request.input
    assert granted.endpoint.id == request.endpoint
    assert granted.upload_tickets[0].key.startswith(f"{request.id}/1/")
    assert granted.files_url == "memory://files"
    running = await queue.get(TENANT, request.id)
    assert (running.state, running.attempt, running.replica_id) == (State.RUNNING, 1, "r1")
    assert running.started_at is not None


@pytest.mark.parametrize("alone", [True, False])
async def test_who_is_to_run_alone_is_leased_so_each_time(queue: Queue, alone: bool) -> None:
    request = await queue.submit(new(alone=alone))
    for _ in range(2):
        granted = await lease(queue)
        assert granted.alone is alone
        await queue.hand_back(granted.held, "r1", "draining")
    assert (await queue.get(TENANT, request.id)).alone is alone


async def test_a_waiting_ask_gets_a_request_as_it_is_submitted(make: Make) -> None:
    queue = await make(replace(QUICK, ask_wait_s=30.0))
    asking = asyncio.create_task(queue.ask(ask(1)))
    await asyncio.sleep(0.1)
    request = await queue.submit(new())
    work = await asking
    assert [each.request_id for each in work.leases] == [request.id]


async def test_an_ask_without_work_ends_after_its_time(queue: Queue) -> None:
    began = time.monotonic()
    assert await queue.ask(ask(1)) == Work()
    assert QUICK.ask_wait_s - 0.05 <= time.monotonic() - began < QUICK.ask_wait_s + 1.0


async def test_an_ask_without_slots_gets_no_work(queue: Queue) -> None:
    await queue.submit(new())
    assert await queue.ask(ask(0)) == Work()


async def test_a_request_whose_endpoint_is_gone_fails_when_it_is_leased(
    queue: Queue, terms: FakeTerms
) -> None:
    request = await queue.submit(new())
    terms.gone.add(request.endpoint)
    assert await queue.ask(ask(1)) == Work()
    ended = await queue.wait(TENANT, request.id, 5.0)
    assert ended.state is State.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "endpoint_not_found"


async def test_an_ask_that_goes_away_loses_no_request(queue: Queue) -> None:
    asking = asyncio.create_task(queue.ask(ask(1)))
    await asyncio.sleep(0.05)
    submitting = asyncio.create_task(queue.submit(new()))
    await asyncio.sleep(0)
    asking.cancel()
    request = await submitting
    await asyncio.gather(asking, return_exceptions=True)
    granted: list[Lease] = []

    async def leased_again() -> bool:
        granted.extend((await queue.ask(ask(1, replica="r2"))).leases)
        return bool(granted)

    # At once; a lease that was on its way to the other when its first, short time is over.
    await eventually(leased_again)
    assert [each.request_id for each in granted] == [request.id]
    assert (await queue.get(TENANT, request.id)).failures == 0


async def test_concurrent_asks_never_share_a_request(queue: Queue) -> None:
    ids = {(await queue.submit(new())).id for _ in range(20)}
    works = await asyncio.gather(*(queue.ask(ask(3, replica=f"r{n}")) for n in range(10)))
    leased = [granted.request_id for work in works for granted in work.leases]
    assert len(leased) == len(set(leased)) == 20
    assert set(leased) == ids


# Report and finish


async def test_a_finished_request_has_its_outcome(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    waiting = asyncio.create_task(queue.wait(TENANT, request.id, 5.0))
    await asyncio.sleep(0.05)
    finish = done(granted.held)
    assert await queue.finish(finish) is Verdict.ACCEPTED
    ended = await waiting
    assert ended.state is State.SUCCEEDED
    assert ended.outcome == finish.outcome
    assert ended.finished_at is not None
    assert ended.progress is None
    assert await queue.get(TENANT, request.id) == ended


async def test_a_repeated_finish_is_accepted_and_changes_nothing(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    assert await queue.finish(done(granted.held)) is Verdict.ACCEPTED
    before = await queue.get(TENANT, request.id)
    assert await queue.finish(done(granted.held)) is Verdict.ACCEPTED
    assert await queue.finish(done(granted.held, failure())) is Verdict.ACCEPTED
    assert await queue.get(TENANT, request.id) == before
    both = await asyncio.gather(*(queue.finish(done(granted.held)) for _ in range(8)))
    assert set(both) == {Verdict.ACCEPTED}


async def test_a_late_attempt_is_fenced(queue: Queue) -> None:
    request = await queue.submit(new())
    old = (await lease(queue)).held
    assert await queue.hand_back(old, "r1", "draining") is Verdict.ACCEPTED
    young = (await lease(queue, "r2")).held
    assert young == Held(request.id, 2)
    assert await queue.finish(done(old)) is Verdict.FENCED
    assert (await queue.report(report(old))).fenced == (old,)
    assert await queue.hand_back(Held(request.id, 7), "r1", "?") is Verdict.FENCED
    assert await queue.finish(done(Held(new_id(), 1))) is Verdict.FENCED
    assert await queue.finish(done(young)) is Verdict.ACCEPTED


async def test_a_failure_that_no_retry_helps_is_final(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    await queue.finish(done(granted.held, failure()))
    ended = await queue.get(TENANT, request.id)
    assert ended.state is State.FAILED
    assert ended.outcome == failure()


async def test_a_retryable_failure_is_tried_again_until_too_many(queue: Queue) -> None:
    request = await queue.submit(new())
    for attempt in range(1, QUICK.max_failures + 1):
        granted = await lease(queue)
        assert granted.attempt == attempt
        await queue.finish(done(granted.held, failure("out_of_memory", retryable=True)))
        assert await queue.finish(done(granted.held)) is Verdict.ACCEPTED
    ended = await queue.get(TENANT, request.id)
    assert ended.state is State.FAILED
    assert ended.failures == QUICK.max_failures
    assert ended.outcome == failure("out_of_memory", retryable=True)


async def test_a_handed_back_request_keeps_its_place(queue: Queue) -> None:
    first = await queue.submit(new())
    granted = await lease(queue)
    second = await queue.submit(new())
    assert await queue.hand_back(granted.held, "r1", "scaling down") is Verdict.ACCEPTED
    assert await queue.hand_back(granted.held, "r1", "scaling down") is Verdict.ACCEPTED
    work = await queue.ask(ask(2))
    assert [each.request_id for each in work.leases] == [first.id, second.id]
    assert (await queue.get(TENANT, first.id)).failures == 0


async def test_progress_is_shown_while_it_runs(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    watching = asyncio.create_task(queue.changed(TENANT, request.id, 5.0))
    await asyncio.sleep(0.05)
    progress = Progress(Stage.DENOISING, 2, 4)
    await queue.report(report(granted.held, progress=[(granted.held, progress)]))
    assert (await watching).progress == progress
    assert (await queue.get(TENANT, request.id)).progress == progress


async def test_a_download_is_told_in_bytes(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    downloading = Progress(Stage.DOWNLOADING, 3 * 10**9, 33 * 10**9)
    await queue.report(report(granted.held, progress=[(granted.held, downloading)]))
    assert (await queue.get(TENANT, request.id)).progress == downloading


async def test_changed_returns_at_once_when_the_caller_saw_something_older(queue: Queue) -> None:
    seen = await queue.submit(new())
    granted = await lease(queue)
    began = time.monotonic()
    running = await queue.changed(TENANT, seen.id, 5.0, since=seen)
    assert running.state is State.RUNNING
    assert time.monotonic() - began < 1.0
    await queue.finish(done(granted.held))
    assert (await queue.changed(TENANT, seen.id, 5.0)).state.final


async def test_wait_returns_the_request_as_it_is_after_its_time(queue: Queue) -> None:
    request = await queue.submit(new())
    began = time.monotonic()
    assert (await queue.wait(TENANT, request.id, 0.2)).state is State.QUEUED
    assert 0.15 <= time.monotonic() - began < 1.5


# Cancel


async def test_a_cancelled_request_never_starts(queue: Queue) -> None:
    request = await queue.submit(new())
    assert await queue.cancel(TENANT, request.id) is CancelVerdict.CANCELLED
    assert await queue.cancel(TENANT, request.id) is CancelVerdict.ALREADY_FINAL
    assert await queue.ask(ask(1)) == Work()
    ended = await queue.get(TENANT, request.id)
    assert ended.state is State.CANCELLED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "cancelled"


async def test_a_cancel_reaches_the_replica_that_runs_it(queue: Queue) -> None:
    request = await queue.submit(new())
    held = (await lease(queue)).held
    asking = asyncio.create_task(queue.ask(ask(0, held)))
    await asyncio.sleep(0.05)
    assert await queue.cancel(TENANT, request.id) is CancelVerdict.REQUESTED
    assert (await asking).signals == (Signal(SignalKind.CANCEL, held),)
    assert (await queue.report(report(held))).cancelled == (held,)
    assert (await queue.get(TENANT, request.id)).cancel_requested
    assert await queue.finish(done(held, failure("cancelled"))) is Verdict.ACCEPTED
    assert (await queue.get(TENANT, request.id)).state is State.CANCELLED


async def test_a_cancel_between_two_asks_is_told_at_the_next(queue: Queue) -> None:
    request = await queue.submit(new())
    held = (await lease(queue)).held
    await queue.cancel(TENANT, request.id)
    began = time.monotonic()
    assert (await queue.ask(ask(1, held))).signals == (Signal(SignalKind.CANCEL, held),)
    assert time.monotonic() - began < QUICK.ask_wait_s


async def test_a_signal_does_not_make_the_replica_spin(queue: Queue) -> None:
    request = await queue.submit(new())
    held = (await lease(queue)).held
    await queue.cancel(TENANT, request.id)
    assert (await queue.ask(ask(0, held))).signals
    assert await queue.ask(ask(0, held)) == Work()


async def test_a_finish_that_is_quicker_than_the_cancel_counts(queue: Queue) -> None:
    request = await queue.submit(new())
    held = (await lease(queue)).held
    await queue.cancel(TENANT, request.id)
    assert await queue.finish(done(held)) is Verdict.ACCEPTED
    assert (await queue.get(TENANT, request.id)).state is State.SUCCEEDED


async def test_what_would_be_tried_again_is_cancelled_if_that_was_asked(queue: Queue) -> None:
    ids: list[str] = []
    for ending in ("failure", "hand_back", "lost"):
        request = await queue.submit(new())
        ids.append(request.id)
        held = (await lease(queue)).held
        await queue.cancel(TENANT, request.id)
        if ending == "failure":
            await queue.finish(done(held, failure("out_of_memory", retryable=True)))
        elif ending == "hand_back":
            await queue.hand_back(held, "r1", "draining")
        assert (await queue.wait(TENANT, request.id, 5.0)).state is State.CANCELLED


async def test_cancels_racing_finishes_end_each_request_once(queue: Queue) -> None:
    ids = [(await queue.submit(new())).id for _ in range(12)]
    leases = (await queue.ask(ask(12))).leases
    acts = [queue.finish(done(each.held)) for each in leases]
    acts += [queue.cancel(TENANT, id_) for id_ in ids]  # type: ignore[misc]
    await asyncio.gather(*acts)
    for id_ in ids:
        assert (await queue.get(TENANT, id_)).state is State.SUCCEEDED
        finals = [line for line in await queue.lines(TENANT, id_) if line.message == "Succeeded."]
        assert len(finals) == 1


# What time and death do


async def test_a_lease_that_runs_out_is_a_failure_and_tried_again(queue: Queue) -> None:
    request = await queue.submit(new())
    old = (await lease(queue)).held

    async def queued_again() -> bool:
        return (await queue.get(TENANT, request.id)).state is State.QUEUED

    await eventually(queued_again)
    assert (await queue.get(TENANT, request.id)).failures == 1
    assert await queue.finish(done(old)) is Verdict.FENCED
    again = await lease(queue, "r2")
    assert again.attempt == 2
    assert again.alone  # it may have been what ended its replica


async def test_a_lease_that_is_renewed_lasts(queue: Queue) -> None:
    request = await queue.submit(new())
    held = (await lease(queue)).held
    end = time.monotonic() + 3 * QUICK.lease_s
    while time.monotonic() < end:
        assert not (await queue.report(report(held))).fenced
        await asyncio.sleep(0.1)
    assert await queue.finish(done(held)) is Verdict.ACCEPTED
    assert (await queue.get(TENANT, request.id)).failures == 0


async def test_an_unconfirmed_lease_that_runs_out_is_no_failure(queue: Queue) -> None:
    request = await queue.submit(new())
    assert (await queue.ask(ask(1))).leases

    async def queued_again() -> bool:
        return (await queue.get(TENANT, request.id)).state is State.QUEUED

    await eventually(queued_again)
    assert (await queue.get(TENANT, request.id)).failures == 0


async def test_a_request_that_no_replica_ever_confirms_fails_in_the_end(make: Make) -> None:
    queue = await make(replace(QUICK, max_unconfirmed=2, first_lease_s=0.2))
    request = await queue.submit(new())
    for _ in range(2):
        while not (await queue.ask(ask(1))).leases:
            pass
    ended = await queue.wait(TENANT, request.id, 5.0)
    assert ended.state is State.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "poison"


async def test_the_leases_of_a_dead_replica_end_at_once(make: Make, liveness: FakeLiveness) -> None:
    queue = await make(replace(QUICK, lease_s=600.0))
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
    queue = await make(replace(QUICK, lease_s=600.0, first_lease_s=600.0, ask_wait_s=60.0))
    request = await queue.submit(new())
    granted = await lease(queue)
    left_open = asyncio.create_task(queue.ask(ask(1, granted.held)))
    other = asyncio.create_task(queue.ask(ask(1, replica="r2")))
    await asyncio.sleep(0)
    liveness.buried.add("actor-r1")
    (again,) = (await other).leases
    assert again.request_id == request.id
    assert again.attempt >= 2  # one that was on its way to the dead one is undone
    assert not (await left_open).leases


async def test_what_ran_when_the_whole_installation_was_stopped_has_not_failed(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(replace(QUICK, lease_s=600.0))
    request = await queue.submit(new())
    leased = await lease(queue)
    await queue.report(report(leased.held))
    liveness.stopped.add("actor-r1")

    async def queued_again() -> bool:
        return (await queue.get(TENANT, request.id)).state is State.QUEUED

    await eventually(queued_again)
    assert (await queue.get(TENANT, request.id)).failures == 0


async def test_a_request_that_ends_its_replica_each_time_is_poison(
    make: Make, liveness: FakeLiveness
) -> None:
    queue = await make(replace(QUICK, lease_s=600.0))
    request = await queue.submit(new())
    for number in range(QUICK.max_failures):
        replica = f"r{number}"
        while True:
            work = await queue.ask(ask(1, replica=replica))
            if work.leases:
                break
        await queue.report(report(work.leases[0].held, replica=replica))
        liveness.buried.add(f"actor-{replica}")
    ended = await queue.wait(TENANT, request.id, 5.0)
    assert ended.state is State.FAILED
    assert ended.failures == QUICK.max_failures
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "poison"


async def test_a_request_that_does_not_start_in_time_expires(queue: Queue) -> None:
    late = await queue.submit(new(start_within_s=0.15))
    patient = await queue.submit(new(start_within_s=60.0))
    ended = await queue.wait(TENANT, late.id, 5.0)
    assert ended.state is State.EXPIRED
    assert ended.outcome is not None
    assert (await queue.get(TENANT, patient.id)).state is State.QUEUED


async def test_a_request_that_started_in_time_does_not_expire(queue: Queue) -> None:
    request = await queue.submit(new(start_within_s=0.5))
    held = (await lease(queue)).held
    await queue.hand_back(held, "r1", "draining")
    await asyncio.sleep(0.7)
    assert (await queue.get(TENANT, request.id)).state is State.QUEUED


# Where it stands


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
