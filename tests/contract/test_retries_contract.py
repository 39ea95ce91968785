"""Contract of requests that set their own number of retries, for every ``Queue``."""

from __future__ import annotations

import pytest

from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.request import MAX_FAILURES, NONE, Request, Retries, State
from tests.contract.queues import Make
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import LONG_LEASES, QUICK
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new, report

OOM = failure("out_of_memory", retryable=True)


async def fail(queue: Queue, request_id: str, outcome: Outcome = OOM) -> Request:
    await queue.finish(make_finish((await lease(queue)).key, outcome))
    return await queue.get(TENANT, request_id)


async def die(
    queue: Queue, liveness: FakeLiveness, request_id: str, replica: str, *, confirmed: bool = True
) -> Request:
    (granted,) = (await queue.ask(ask(1, replica=replica))).leases
    if confirmed:
        await queue.report(report(granted.key, replica=replica))
    liveness.buried.add(f"actor-{replica}")
    while (seen := await queue.wait_for_change(TENANT, request_id, 0.1)).state is State.RUNNING:
        pass
    return seen


async def messages(queue: Queue, request_id: str) -> list[str]:
    return [line.message for line in await queue.lines(TENANT, request_id)]


async def test_without_retries_the_first_failure_is_the_end(queue: Queue) -> None:
    request = await queue.submit(new(retries=NONE))
    ended = await fail(queue, request.id)
    assert (ended.state, ended.failures, ended.outcome) == (State.FAILED, 1, OOM)


async def test_so_many_retries_as_it_says_and_no_more(queue: Queue) -> None:
    request = await queue.submit(new(retries=Retries(server_error=4)))
    assert request.retries_left == Retries(server_error=4)
    for left in (3, 2, 1, 0):
        again = await fail(queue, request.id)
        assert (again.state, again.retries_left) == (State.QUEUED, Retries(server_error=left))
    ended = await fail(queue, request.id)
    assert (ended.state, ended.failures) == (State.FAILED, 5)
    lines = await messages(queue, request.id)
    assert "server error 4" in lines[0]
    assert [line for line in lines if "queued again" in line][-1].endswith(
        "It went wrong: out_of_memory; queued again. "
        "Retries left: timeout 0, server error 0, connection error 0."
    )


async def test_ten_attempts_are_the_most(queue: Queue) -> None:
    request = await queue.submit(new(retries=Retries(server_error=100)))
    for _ in range(MAX_FAILURES - 1):
        assert (await fail(queue, request.id)).state is State.QUEUED
    assert (await fail(queue, request.id)).state is State.FAILED


async def test_an_error_of_the_model_is_never_tried_again(queue: Queue) -> None:
    request = await queue.submit(new(retries=Retries(9, 9, 9)))
    assert (await fail(queue, request.id, failure())).state is State.FAILED


async def test_each_cause_has_its_own(make: Make, liveness: FakeLiveness) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new(retries=Retries(server_error=1, connection_error=1)))
    assert (await fail(queue, request.id)).state is State.QUEUED
    again = await die(queue, liveness, request.id, "r2")
    assert (again.state, again.retries_left) == (State.QUEUED, NONE)
    ended = await die(queue, liveness, request.id, "r3")
    assert (ended.state, ended.failures) == (State.FAILED, 3)


@pytest.mark.parametrize("retries", [NONE, Retries(timeout=5, server_error=5)])
async def test_when_its_replica_died_and_that_allows_no_retry_it_says_so(
    make: Make, liveness: FakeLiveness, retries: Retries
) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new(retries=retries))
    ended = await die(queue, liveness, request.id, "r1")
    assert ended.state is State.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "replica_died"
    assert "X-Fal-No-Retry" in ended.outcome.failure.message


async def test_a_lease_that_runs_out_is_a_timeout(make: Make) -> None:
    queue = await make(QUICK)
    once = await queue.submit(new(retries=Retries(timeout=1)))
    never = await queue.submit(new(retries=Retries(server_error=9, connection_error=9)))
    leases = (await queue.ask(ask(2))).leases
    await queue.report(report(*(grant.key for grant in leases)))
    assert (await queue.wait(TENANT, never.id, 10.0)).state is State.FAILED
    while (seen := await queue.wait_for_change(TENANT, once.id, 0.1)).state is State.RUNNING:
        pass
    assert (seen.state, seen.retries_left) == (State.QUEUED, NONE)


async def test_what_is_no_failure_takes_no_retry(make: Make, liveness: FakeLiveness) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new(retries=NONE))
    await queue.hand_back((await lease(queue)).key, "r1", "draining")
    again = await die(queue, liveness, request.id, "r2", confirmed=False)
    assert (again.state, again.failures) == (State.QUEUED, 0)


async def test_a_cancelled_one_stays_cancelled(queue: Queue) -> None:
    request = await queue.submit(new(retries=NONE))
    granted = await lease(queue)
    await queue.cancel(TENANT, request.id)
    await queue.finish(make_finish(granted.key, OOM))
    assert (await queue.get(TENANT, request.id)).state is State.CANCELLED
