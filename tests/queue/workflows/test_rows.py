"""Rows of workflows in PostgreSQL: leases, limits, retention, and two ingress processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from serve_app.domain.errors import Overloaded, RateLimited
from serve_app.domain.lease import Finish
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.request import State
from serve_app.domain.workflows.definition import POOL
from serve_app.domain.workflows.runs import RUNNER
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.deletion import Deletion, PostgresLifecycles
from serve_app.queue.transactions.redaction import Redaction
from serve_app.settings import TenantLimits
from tests.contract.test_deletion_contract import image
from tests.contract.test_workflows_contract import (
    ACTOR,
    DONE,
    DRAW,
    FLOW,
    call,
    find_run,
    send_step,
    start_run,
)
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import LONG_LEASES, QUICK, Ingress
from tests.queue.requests import TENANT, ask, lease, make_finish, new, new_id


async def state_of(queue: PostgresQueue, request_id: str) -> State:
    return (await queue.current(TENANT, request_id)).state


async def test_a_workflow_outlives_every_lease_and_the_death_of_every_process(
    ingress: Ingress, liveness: FakeLiveness
) -> None:
    queue = await ingress(QUICK)
    run = await start_run(queue)
    other = new()
    await queue.submit(other)
    leased = await lease(queue)  # what a lease that runs out looks like
    liveness.buried.add("actor-r1")
    while await state_of(queue, other.id) is State.RUNNING:  # noqa: ASYNC110  the reaper ends it
        await asyncio.sleep(0.05)
    await asyncio.sleep(2 * QUICK.lease_s)  # rounds of the reaper
    again = await queue.current(TENANT, run.lease_key.request_id)
    assert (again.state, again.attempt, again.failures) == (State.RUNNING, 1, 0)
    assert str(await queue.finish(make_finish(leased.key))) == "fenced"
    assert str(await queue.finish(Finish(run.lease_key, RUNNER, DONE))) == "accepted"


async def test_why_a_step_was_refused_is_erased_with_the_outcome_of_its_workflow(
    ingress: Ingress, database: Database
) -> None:
    """It may quote an input that is not to be kept."""
    queue = await ingress()
    run = await start_run(queue, store_io=False)
    await queue.workflows.runs.take(run, [call(DRAW, new_id())])
    failure = Failure("invalid_input", "prompt: not 'a secret'.", retryable=False)
    assert await queue.workflows.runs.refuse(run, DRAW, failure)
    await queue.finish(Finish(run.lease_key, RUNNER, Outcome(failure=failure)))
    await database.rows("UPDATE attempts SET collected = true")  # or the input is needed still
    await database.rows("UPDATE requests SET finished_at = now() - interval '2 hours'")
    await Redaction(database).redact_due()
    assert await database.rows("SELECT refused FROM workflow_steps") == [("",)]


async def test_a_workflow_does_not_count_for_the_limit_of_running_requests(
    ingress: Ingress,
) -> None:
    limits = replace(LONG_LEASES, tenants={TENANT: TenantLimits(max_running=1)})
    queue = await ingress(limits)
    for _ in range(3):
        await start_run(queue)
    await queue.submit(new())
    await queue.submit(new())
    await lease(queue)
    work = await queue.ask(ask(1, replica="r2"))
    assert work.leases == ()  # the limit holds for others


async def test_retention_keeps_steps_as_long_as_their_workflow(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    run = await start_run(queue)
    step = await send_step(queue, run)
    lease_key = (await lease(queue)).key
    await queue.finish(make_finish(lease_key, image(step)))
    deletion = Deletion(database, Retention())
    assert await deletion.delete_of_tenant(TENANT) == []
    await queue.finish(Finish(run.lease_key, RUNNER, DONE))
    assert await deletion.delete_of_tenant(TENANT) == [run.lease_key.request_id]
    ((files,),) = await database.rows("SELECT count(*) FROM artifacts")
    assert files > 0
    assert await deletion.delete_of_tenant(TENANT) == [step]
    ((files,),) = await database.rows("SELECT count(*) FROM artifacts")
    assert files == 0
    ((rows,),) = await database.rows("SELECT count(*) FROM workflow_steps")
    assert rows == 0


async def test_the_lifetime_of_a_steps_files_begins_with_the_end_of_its_workflow(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    run = await start_run(queue)
    lifecycles = PostgresLifecycles(database)
    step = await send_step(queue, run)
    await lifecycles.keep(step, 0.0)
    await queue.finish(make_finish((await lease(queue)).key, image(step)))
    await lifecycles.expire()
    ((files,),) = await database.rows("SELECT count(*) FROM artifacts")
    assert files > 0
    await queue.finish(Finish(run.lease_key, RUNNER, DONE))
    await lifecycles.expire()
    ((files,),) = await database.rows("SELECT count(*) FROM artifacts")
    assert files == 0


RUNS = "SELECT count(*)::integer FROM workflow_runs"
WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%doomed%%'"


async def test_the_run_of_a_deleted_request_is_deleted_when_its_steps_have_ended(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    run = await start_run(queue)
    step = await send_step(queue, run)
    await queue.operations.fail(run.lease_key.request_id, ACTOR, "It is not wanted.")
    await queue.delete(TENANT, run.lease_key.request_id)
    await queue.workflows.runs.close()
    assert await database.rows(RUNS) == [(1,)]
    await queue.cancel(TENANT, step)
    await queue.workflows.runs.close()
    assert await database.rows(RUNS) == [(0,)]


async def test_a_run_that_is_closed_while_its_request_is_deleted_does_not_stay(
    ingress: Ingress, conninfo: str, database: Database
) -> None:
    queue = await ingress()
    run = await start_run(queue)
    step = await send_step(queue, run)
    await queue.operations.fail(run.lease_key.request_id, ACTOR, "It is not wanted.")
    async with await psycopg.AsyncConnection.connect(conninfo) as closing:
        await closing.execute("SELECT FROM requests WHERE pool = %s FOR KEY SHARE", (POOL,))
        deleting = asyncio.create_task(queue.delete(TENANT, run.lease_key.request_id))
        while not await database.rows(WAITS):
            assert not deleting.done()
            await asyncio.sleep(0.01)
        await queue.cancel(TENANT, step)
        await closing.execute("UPDATE workflow_runs SET ended_at = now()")
    await deleting
    assert await database.rows(RUNS) == [(0,)]


async def test_a_step_that_is_sent_twice_at_once_is_stored_and_counted_once(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    request = new(idempotency_key="run/draw", body_digest=b"1" * 32)
    both = [replace(request) for _ in range(2)]  # as two tasks make it
    answers = await asyncio.gather(*(queue.submit(copy, most_queued=2) for copy in both))
    assert {answer.id for answer in answers} == {request.id}
    assert await database.rows("SELECT count(*) FROM requests") == [(1,)]
    await queue.submit(new(), most_queued=2)
    with pytest.raises(Overloaded):
        await queue.submit(new(), most_queued=2)


async def test_a_step_that_is_sent_twice_at_once_and_refused_leaves_no_count(
    ingress: Ingress,
) -> None:
    limits = replace(LONG_LEASES, tenants={TENANT: TenantLimits(requests_per_minute=1)})
    queue = await ingress(replace(limits, max_waiting=3))
    await queue.submit(new())
    request = new(idempotency_key="run/draw", body_digest=b"1" * 32)
    both = (queue.submit(replace(request)) for _ in range(2))
    refused = await asyncio.gather(*both, return_exceptions=True)
    assert [type(error) for error in refused] == [RateLimited, RateLimited]
    # If more was taken off than was counted in, a third finds room.
    others = (queue.submit(new(tenant="bob")) for _ in range(3))
    answers = await asyncio.gather(*others, return_exceptions=True)
    assert sum(isinstance(answer, Overloaded) for answer in answers) == 1


async def test_two_processes_that_send_the_same_step_store_one_request(ingress: Ingress) -> None:
    first, second = await ingress(), await ingress()
    run = await start_run(first)
    for _ in range(20):
        key = f"{run.lease_key.request_id}/draw"
        request = new(idempotency_key=key, body_digest=b"1" * 32)
        answers = await asyncio.gather(
            *(queue.submit(request) for queue in (first, second) for _ in range(2))
        )
        assert len({answer.id for answer in answers}) == 1


async def test_two_processes_start_each_request_once(ingress: Ingress) -> None:
    first, second = await ingress(), await ingress()
    await start_run(first)
    for _ in range(20):
        await first.submit(new(endpoint=FLOW, pool=POOL))
    counts = await asyncio.gather(
        *(queue.workflows.runs.start(7) for queue in (first, second) for _ in range(4))
    )
    assert sum(counts) == 20
    assert len(await second.workflows.runs.due(99)) == 21


async def test_a_cancel_and_a_step_at_once_leave_no_step_behind(ingress: Ingress) -> None:
    first, second = await ingress(), await ingress()
    for _ in range(10):
        run = await start_run(first)
        request = new()
        taken, _ = await asyncio.gather(
            first.workflows.runs.take(run, [call(DRAW, request.id)]),
            second.cancel(TENANT, run.lease_key.request_id),
        )
        again = await find_run(second, run.lease_key.request_id)
        assert again.cancel_requested
        steps = await second.workflows.runs.steps(again)
        assert [step.id for step in steps] == [*taken]
        await second.finish(Finish(run.lease_key, RUNNER, DONE))
