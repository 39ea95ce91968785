"""Contract of ``WorkflowBook``: run over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.errors import RequestActive, RequestNotFound
from serve_app.domain.lease import Finish
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, State
from serve_app.domain.webhook import Webhook
from serve_app.domain.workflows.definition import POOL
from serve_app.domain.workflows.plan import StepId
from serve_app.domain.workflows.runs import RUNNER, NewWorkflow, StepState, WorkflowRun
from tests.queue.requests import TENANT, lease, make_finish, new, new_id

ACTOR = Actor("key-1", "192.0.2.1")
FLOW = "workflows/ann/flow"
DEFINITION: Mapping[str, Any] = {
    "nodes": {"draw": {"app": "a/b", "input": {}}, "big": {"app": "c/d", "input": {}}},
    "output": {},
}
DRAW, BIG = StepId("draw"), StepId("big", 3)
DONE = Outcome(output={"n": 1}, usage=Usage(1.5, 4, 1.0))
MOST = 10


async def register(queue: Queue, name: str = "flow", tenant: str = TENANT, **more: Any) -> bool:
    definition = more.pop("definition", DEFINITION)
    workflow = NewWorkflow(tenant, name, definition, {"name": name}, **more)
    return await queue.workflows.definitions.put(workflow, MOST, ACTOR)


async def start_run(queue: Queue, **changes: Any) -> WorkflowRun:
    """A run of a new request to the workflow, which is registered."""
    await register(queue)
    request = new(endpoint=FLOW, pool=POOL, **changes)
    await queue.submit(request)
    assert await queue.workflows.runs.start(9) == 1
    return await find_run(queue, request.id)


async def started_late(queue: Queue) -> WorkflowRun:
    """A run whose time ends soon. On a machine that stands still, one with more time: a request
    whose time has ended does not start."""
    await register(queue)
    for end_within_s in (0.05, 2.0, 60.0):
        request = new(endpoint=FLOW, pool=POOL, end_within_s=end_within_s)
        await queue.submit(request)
        if await queue.workflows.runs.start(9):
            return await find_run(queue, request.id)
    raise AssertionError("the request does not start")


async def find_run(queue: Queue, request_id: str) -> WorkflowRun:
    runs = await queue.workflows.runs.due(99)
    return next(run for run in runs if run.lease_key.request_id == request_id)


async def due_ids(queue: Queue) -> list[str]:
    return [run.lease_key.request_id for run in await queue.workflows.runs.due(99)]


def call(step: StepId, request_id: str, **arguments: Any) -> tuple[StepId, str, str, Any]:
    return step, "fal-ai/flux/schnell", request_id, arguments


async def send_step(queue: Queue, run: WorkflowRun, step: StepId = DRAW, **changes: Any) -> str:
    """Id of the stored request of a step."""
    request = new(**changes)
    assert await queue.workflows.runs.take(run, [call(step, request.id)]) == [step]
    await queue.submit(request)
    assert await queue.workflows.runs.mark_sent(run, step, request.id)
    return request.id


async def test_workflows_are_registered_replaced_listed_and_removed(queue: Queue) -> None:
    book = queue.workflows.definitions
    before = await book.version()
    assert await register(queue)
    assert await register(queue, "other", "bob", public=True)
    assert await register(queue, "secret", "bob")
    version = await book.version()
    assert version != before
    known = await book.find(TENANT, "flow")
    assert known is not None
    assert (known.definition, known.source, known.public) == (DEFINITION, {"name": "flow"}, False)
    assert [(workflow.tenant, workflow.name) for workflow in await book.page(TENANT)] == [
        (TENANT, "flow"),
        ("bob", "other"),
    ]
    assert len(await book.all()) == 3
    assert await register(queue, definition={**DEFINITION, "output": {"x": 1}})
    again = await book.find(TENANT, "flow")
    assert again is not None
    assert again.definition["output"] == {"x": 1}
    assert again.created_at == known.created_at
    assert await book.version() != version
    assert not await book.remove("bob", "flow", ACTOR)
    assert await book.remove(TENANT, "flow", ACTOR)
    assert await book.find(TENANT, "flow") is None


async def test_a_tenant_has_a_limit_of_workflows(queue: Queue) -> None:
    book = queue.workflows.definitions
    workflows = [NewWorkflow(TENANT, f"flow-{n}", DEFINITION, {}) for n in range(6)]
    stored = await asyncio.gather(*(book.put(workflow, 3, ACTOR) for workflow in workflows))
    assert sum(stored) == 3
    assert await book.put(next(w for w, s in zip(workflows, stored, strict=True) if s), 3, ACTOR)
    assert await book.put(NewWorkflow("bob", "flow", DEFINITION, {}), 3, ACTOR)


async def test_a_request_starts_once_with_what_its_steps_inherit(queue: Queue) -> None:
    await register(queue)
    request = new(
        endpoint=FLOW,
        pool=POOL,
        priority=Priority.HIGH,
        end_within_s=600,
        store_io=False,
        previews=False,
        alone=True,
        steps_stay=True,
        key_id="key-7",
        webhook=Webhook("https://example.com", "http://here"),
        input={"idea": "x"},
    )
    await queue.submit(request)
    counts = await asyncio.gather(*(queue.workflows.runs.start(9) for _ in range(4)))
    assert sum(counts) == 1
    (run,) = await queue.workflows.runs.due(99)
    assert (run.tenant, run.endpoint, run.key_id) == (TENANT, FLOW, "key-7")
    assert (run.input, run.definition) == ({"idea": "x"}, DEFINITION)
    assert (run.priority, run.store_io, run.previews) == (Priority.HIGH, False, False)
    assert run.alone
    assert run.steps_stay
    assert run.origin == "http://here"
    assert run.left_s is not None
    assert 0 < run.left_s <= 600
    stored = await queue.current(TENANT, request.id)
    assert (stored.state, stored.attempt, stored.replica_id) == (State.RUNNING, 1, RUNNER)
    assert stored.started_at is not None


async def test_requests_to_other_endpoints_are_not_started(queue: Queue) -> None:
    await queue.submit(new())
    assert await queue.workflows.runs.start(9) == 0


async def test_a_request_waits_while_its_endpoint_is_paused(queue: Queue) -> None:
    await register(queue)
    await queue.submit(new(endpoint=FLOW, pool=POOL))
    await queue.operations.pause(FLOW, ACTOR)
    assert await queue.workflows.runs.start(9) == 0
    await queue.operations.resume(FLOW, ACTOR)
    assert await queue.workflows.runs.start(9) == 1


async def test_a_public_workflow_runs_for_all_and_a_private_one_for_its_owner(
    queue: Queue,
) -> None:
    await register(queue, public=True)
    await register(queue, "own")
    for name in ("flow", "own"):
        await queue.submit(new(endpoint=f"workflows/ann/{name}", pool=POOL, tenant="bob"))
    await queue.workflows.runs.start(9)
    runs = {run.endpoint: run.definition for run in await queue.workflows.runs.due(99)}
    assert runs == {"workflows/ann/flow": DEFINITION, "workflows/ann/own": None}


async def test_a_step_is_taken_once_with_its_id_and_input(queue: Queue) -> None:
    run, runs = await start_run(queue), queue.workflows.runs
    ids = [new_id() for _ in range(4)]
    taking = (
        runs.take(run, [call(DRAW, request_id, n=1), call(BIG, new_id())]) for request_id in ids
    )
    taken = [step for some in await asyncio.gather(*taking) for step in some]
    assert sorted(taken, key=str) == sorted([DRAW, BIG], key=str)
    big, draw = await runs.steps(run)
    assert (draw.id, draw.app, draw.state) == (DRAW, "fal-ai/flux/schnell", StepState.SENDING)
    assert draw.request_id in ids
    assert draw.input == {"n": 1}
    assert (big.id, draw.outcome, draw.request_state) == (BIG, None, None)


async def test_no_step_is_taken_once_the_run_has_ended_or_is_to_be_cancelled(queue: Queue) -> None:
    run, runs = await start_run(queue), queue.workflows.runs
    other = await start_run(queue)
    await queue.cancel(TENANT, run.lease_key.request_id)
    await queue.finish(Finish(other.lease_key, RUNNER, DONE))
    for stopped in (run, other):
        assert await runs.take(stopped, [call(DRAW, new_id())]) == []
        assert await runs.steps(stopped) == []


async def test_a_run_is_due_when_it_can_go_on(queue: Queue) -> None:
    run = await start_run(queue)
    runs, id_ = queue.workflows.runs, run.lease_key.request_id
    assert await due_ids(queue) == [id_]  # nothing of it runs
    request = new()
    await runs.take(run, [call(DRAW, request.id)])
    assert await due_ids(queue) == [id_]  # a step is to be sent
    await queue.submit(request)
    assert await runs.mark_sent(run, DRAW, request.id)
    assert not await runs.mark_sent(run, DRAW, request.id)
    assert await due_ids(queue) == []
    await queue.finish(make_finish((await lease(queue)).key))
    assert await due_ids(queue) == [id_]  # a step has ended
    (step,) = await runs.steps(run)
    assert (step.state, step.request_state) == (StepState.SENT, State.SUCCEEDED)
    assert await runs.settle(run, DRAW, DONE)
    assert not await runs.settle(run, DRAW, Outcome(output={"n": 2}))
    (step,) = await runs.steps(run)
    assert (step.state, step.outcome) == (StepState.ENDED, DONE)


@pytest.mark.parametrize("what", ["cancelled", "deleted", "late"])
async def test_a_run_with_steps_is_due_when(queue: Queue, what: str) -> None:
    run = await (started_late(queue) if what == "late" else start_run(queue))
    step = await send_step(queue, run)
    if what == "cancelled":
        assert await due_ids(queue) == []
        await queue.cancel(TENANT, run.lease_key.request_id)
    elif what == "deleted":
        assert await due_ids(queue) == []
        await queue.finish(make_finish((await lease(queue)).key))
        await queue.finish(Finish(run.lease_key, RUNNER, DONE))
        await queue.delete(TENANT, step)
        return
    while not await due_ids(queue):  # noqa: ASYNC110  time or the cancel makes it due
        await asyncio.sleep(0.02)
    again = await find_run(queue, run.lease_key.request_id)
    assert again.cancel_requested == (what == "cancelled")


async def test_due_runs_are_read_in_pages_so_that_their_inputs_fit_into_memory(
    queue: Queue,
) -> None:
    ids = [(await start_run(queue)).lease_key.request_id for _ in range(5)]
    runs, seen, last = queue.workflows.runs, list[str](), None
    while page := await runs.due(2, last):
        assert len(page) <= 2
        seen += [run.lease_key.request_id for run in page]
        last = page[-1]
    assert seen == ids


async def test_a_tenant_that_the_queue_is_full_of_does_not_send_again_and_goes_on(
    queue: Queue,
) -> None:
    waits, goes_on = await start_run(queue), await start_run(queue)
    runs = queue.workflows.runs
    await runs.take(waits, [call(DRAW, new_id())])
    full = {TENANT}
    assert [run.lease_key for run in await runs.due(9, None, full)] == [goes_on.lease_key]
    await queue.cancel(TENANT, waits.lease_key.request_id)
    assert len(await runs.due(9, None, full)) == 2  # what was cancelled ends


async def test_a_request_to_a_workflow_loses_no_lease(queue: Queue) -> None:
    run = await start_run(queue)
    assert run.left_s is None
    await queue.submit(new())
    await lease(queue)
    again = await queue.current(TENANT, run.lease_key.request_id)
    assert (again.state, again.attempt, again.failures) == (State.RUNNING, 1, 0)


async def test_a_finish_ends_the_request_once_and_counts_nothing(queue: Queue) -> None:
    price = Price(PriceUnit.REQUEST, Decimal("0.5"))
    run = await start_run(queue)
    step = await send_step(queue, run, price=price, key_id="key-1")
    await queue.finish(make_finish((await lease(queue)).key))
    before = await queue.workflows.status(TENANT, run.lease_key.request_id)
    assert before is not None
    (shown,) = before.steps
    assert (shown.id, shown.request_id, shown.state) == (DRAW, step, State.SUCCEEDED)
    assert (shown.run_s, shown.cost, shown.currency) == (1.5, Decimal("0.5"), "USD")
    assert [*before.nodes] == ["draw", "big"]
    verdicts = await asyncio.gather(
        *(queue.finish(Finish(run.lease_key, RUNNER, DONE)) for _ in range(3))
    )
    assert {str(verdict) for verdict in verdicts} == {"accepted"}
    stored = await queue.current(TENANT, run.lease_key.request_id)
    assert stored.state is State.SUCCEEDED
    assert stored.outcome is not None
    assert stored.outcome.usage.run_s == 1.5
    assert await queue.workflows.status("bob", run.lease_key.request_id) is None
    assert await queue.workflows.step_requests("bob", run.lease_key.request_id) == []
    assert await queue.workflows.step_requests(TENANT, run.lease_key.request_id) == [step]


async def test_a_step_that_failed_says_why(queue: Queue) -> None:
    run = await start_run(queue)
    step = await send_step(queue, run)
    await queue.cancel(TENANT, step)
    shown = await queue.workflows.status(TENANT, run.lease_key.request_id)
    assert shown is not None
    assert shown.steps[0].state is State.CANCELLED
    assert shown.steps[0].error


async def test_a_step_that_was_refused_has_failed_without_a_request_also_after_the_end(
    queue: Queue,
) -> None:
    """It was said to wait, for good, under the id of a request that never was."""
    run, runs = await start_run(queue), queue.workflows.runs
    await runs.take(run, [call(DRAW, new_id())])
    failure = Failure("budget_exhausted", "Nothing is left.", retryable=False)
    assert await runs.refuse(run, DRAW, failure)
    assert not await runs.refuse(run, DRAW, failure)
    (step,) = await runs.steps(run)
    assert (step.state, step.refused) == (StepState.ENDED, True)
    assert step.outcome == Outcome(failure=failure)
    await queue.finish(Finish(run.lease_key, RUNNER, Outcome(failure=failure)))
    for _ in range(2):
        status = await queue.workflows.status(TENANT, run.lease_key.request_id)
        assert status is not None
        (shown,) = status.steps
        assert (shown.request_id, shown.state) == (None, State.FAILED)
        assert shown.error == "Nothing is left."
        assert await queue.workflows.step_requests(TENANT, run.lease_key.request_id) == []
        await runs.close()


async def test_a_step_whose_request_is_not_accepted_says_why_until_it_is(queue: Queue) -> None:
    run, runs, request = await start_run(queue), queue.workflows.runs, new()
    await runs.take(run, [call(DRAW, request.id)])
    for why in ("It is drained.", "The queue is full."):
        assert await runs.put_off(run, DRAW, why)
        (step,) = await runs.steps(run)
        status = await queue.workflows.status(TENANT, run.lease_key.request_id)
        assert status is not None
        assert (step.waits, status.steps[0].waits) == (why, why)
    assert await runs.mark_sent(run, DRAW, request.id)
    assert not await runs.put_off(run, DRAW, "Too late.")
    (step,) = await runs.steps(run)
    status = await queue.workflows.status(TENANT, run.lease_key.request_id)
    assert status is not None
    assert (step.waits, status.steps[0].waits) == ("", "")


async def test_a_step_whose_request_is_stored_is_not_refused(queue: Queue) -> None:
    """As after a crash between the two: it would run on, and be paid for, without the workflow."""
    run, runs, request = await start_run(queue), queue.workflows.runs, new()
    await runs.take(run, [call(DRAW, request.id)])
    await queue.submit(request)
    assert not await runs.refuse(run, DRAW, Failure("not_found", "No.", retryable=False))
    (step,) = await runs.steps(run)
    assert (step.state, step.request_state) == (StepState.SENDING, State.QUEUED)


async def test_a_step_is_kept_until_its_workflow_has_ended(queue: Queue) -> None:
    run = await start_run(queue)
    step = await send_step(queue, run)
    await queue.finish(make_finish((await lease(queue)).key))
    with pytest.raises(RequestActive, match=run.lease_key.request_id):
        await queue.delete(TENANT, step)
    await queue.finish(Finish(run.lease_key, RUNNER, DONE))
    await queue.delete(TENANT, step)
    with pytest.raises(RequestNotFound):
        await queue.current(TENANT, step)
    await queue.delete(TENANT, run.lease_key.request_id)
    assert await queue.workflows.status(TENANT, run.lease_key.request_id) is None


@pytest.mark.long
@pytest.mark.parametrize("key", [None, "key"])
async def test_steps_of_a_run_that_was_failed_by_hand_and_deleted_are_abandoned_too(
    queue: Queue, key: str | None
) -> None:
    digest = b"" if key is None else bytes(32)
    run = await start_run(queue, idempotency_key=key, body_digest=digest)
    request, runs = run.lease_key.request_id, queue.workflows.runs
    step = await send_step(queue, run)
    await queue.operations.fail(request, ACTOR, "It is not wanted.")
    await queue.delete(TENANT, request)
    for _ in range(2):
        assert await runs.list_abandoned_steps(9) == [(TENANT, request, step)]
        await runs.close()
    assert await queue.workflows.status(TENANT, request) is None
    assert await queue.workflows.step_requests(TENANT, request) == []
    await queue.cancel(TENANT, step)
    assert await runs.list_abandoned_steps(9) == []
    await runs.close()
    await queue.delete(TENANT, step)


async def test_steps_of_a_run_that_others_have_ended_are_abandoned(queue: Queue) -> None:
    run, runs = await start_run(queue), queue.workflows.runs
    step = await send_step(queue, run)
    assert await runs.list_abandoned_steps(9) == []
    await queue.operations.fail(run.lease_key.request_id, ACTOR, "No more.")
    assert await runs.list_abandoned_steps(9) == [(TENANT, run.lease_key.request_id, step)]
    await runs.close()
    assert await runs.list_abandoned_steps(9) == [(TENANT, run.lease_key.request_id, step)]
    await queue.cancel(TENANT, step)
    assert await runs.list_abandoned_steps(9) == []
    await runs.close()
    shown = await queue.workflows.status(TENANT, run.lease_key.request_id)
    assert shown is not None
    assert [shown_step.request_id for shown_step in shown.steps] == [step]


async def test_a_request_that_an_operator_requeues_keeps_its_steps(queue: Queue) -> None:
    run, runs = await start_run(queue), queue.workflows.runs
    await send_step(queue, run)
    await queue.operations.requeue(run.lease_key.request_id, ACTOR)
    assert await runs.start(9) == 1
    await queue.finish(make_finish((await lease(queue)).key))
    again = await find_run(queue, run.lease_key.request_id)
    assert again.lease_key.attempt == 2
    assert [step.id for step in await runs.steps(again)] == [DRAW]
    assert str(await queue.finish(Finish(run.lease_key, RUNNER, DONE))) == "fenced"
