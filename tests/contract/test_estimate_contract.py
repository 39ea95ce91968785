"""Contract of expected starts and ends: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_app.domain.lease import Lease, Presence, ReplicaStage
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Waiting, WaitReason
from serve_app.settings import TenantLimits
from tests.contract.queues import Make
from tests.contract.test_fairness_contract import CALM, submit_many
from tests.contract.test_snapshots_contract import keep
from tests.contract.waiting import eventually
from tests.queue.requests import POOL, TENANT, ask, lease, make_finish, new, report


async def teach_duration(queue: Queue, run_s: float, **changes: Any) -> None:
    """Teach the queue that a request takes ``run_s``."""
    for _ in range(3):
        await queue.submit(new(work=10.0, **changes))
        (granted,) = (await queue.ask(ask(1))).leases
        await queue.finish(make_finish(granted.key, Outcome(output={}, usage=Usage(run_s, 4, 1.0))))


async def knows(queue: Queue, running: Lease, tenant: str = TENANT) -> None:
    """Wait until the cost model knows how long this request takes. It learns once a second;
    requests submitted before are taken for one second of work.
    """

    async def known() -> bool:
        return await queue.ends_at(await queue.get(tenant, running.request_id)) is not None

    await eventually(known)


async def waits_until(queue: Queue, request_id: str, true: Callable[[Waiting], bool]) -> Waiting:
    """Waiting status as soon as ``true`` accepts it; the first answers may be guesses.

    Positions are read for at most a twentieth of the time, so a read that took long on a busy
    machine is followed by a pause twenty times as long.
    """
    sightings: list[Waiting] = []

    async def holds() -> bool:
        sightings.append(await queue.waiting(await queue.get(TENANT, request_id)))
        return true(sightings[-1])

    await eventually(holds)
    return sightings[-1]


def seconds(at: datetime | None) -> float:
    """Seconds from now; 0 if there is no estimate."""
    return 0.0 if at is None else (at - datetime.now(UTC)).total_seconds()


async def test_while_nothing_has_ended_there_is_no_estimate(make: Make) -> None:
    queue = await make(CALM)
    await queue.submit(new())
    (granted,) = (await queue.ask(ask(1))).leases
    request = await queue.submit(new())
    waiting = await queue.waiting(request)
    assert (waiting.starts_at, waiting.ends_at) == (None, None)
    assert await queue.ends_at(await queue.get(TENANT, granted.request_id)) is None


async def test_a_client_that_waits_learns_when_it_should_start_and_end(make: Make) -> None:
    queue = await make(CALM)
    await teach_duration(queue, 100.0)
    await submit_many(queue, 3, work=10.0)
    running: Lease = (await queue.ask(ask(1))).leases[0]
    last = await queue.submit(new(work=20.0))
    # One runs, two of 100 s are ahead, and it has twice their work.
    waiting = await waits_until(
        queue, last.id, lambda it: it.position == 2 and 250 < seconds(it.starts_at) < 310
    )
    assert 440 < seconds(waiting.ends_at) < 520
    ends_at = await queue.ends_at(await queue.get(TENANT, running.request_id))
    assert 80 < seconds(ends_at) <= 101


async def test_another_tenant_s_single_request_learns_that_it_is_next(make: Make) -> None:
    queue = await make(CALM)
    await teach_duration(queue, 100.0)
    await submit_many(queue, 1, tenant="bob", work=10.0)
    await knows(queue, (await queue.ask(ask(1))).leases[0], "bob")
    await submit_many(queue, 5, tenant="bob", work=10.0)
    single = await queue.submit(new(work=10.0))
    waiting = await waits_until(
        queue, single.id, lambda it: it.position <= 1 and 80 < seconds(it.starts_at) < 210
    )
    assert 80 < seconds(waiting.starts_at) < 210


async def test_a_request_that_takes_longer_than_expected_never_gets_a_time_that_is_over(
    make: Make,
) -> None:
    queue = await make(CALM)
    await teach_duration(queue, 0.05)
    await queue.submit(new(work=10.0))
    (granted,) = (await queue.ask(ask(1))).leases
    waits = await queue.submit(new(work=10.0))
    await asyncio.sleep(0.4)
    for _ in range(10):
        before = datetime.now(UTC)
        waiting = await queue.waiting(waits)
        ends_at = await queue.ends_at(await queue.get(TENANT, granted.request_id))
        assert waiting.starts_at is not None
        assert waiting.ends_at is not None
        assert ends_at is not None
        assert before <= waiting.starts_at <= waiting.ends_at
        assert before <= ends_at
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("steps", "least_s", "most_s"),
    [(401, 195, 201), (2**53, 364 * 86400, 366 * 86400)],
    ids=["more steps than others", "more steps than there are dates"],
)
async def test_a_running_request_lasts_at_least_as_long_as_its_own_pace_says(
    make: Make, steps: int, least_s: float, most_s: float
) -> None:
    queue = await make(CALM)
    await teach_duration(queue, 1.0)
    await queue.submit(new(work=10.0))
    running = await lease(queue)
    await knows(queue, running)
    progress = Progress(Stage.RUNNING, 1, steps, rate=2.0)
    await queue.report(report(running.key, progress=[(running.key, progress)]))

    async def estimated() -> bool:
        ends_at = await queue.ends_at(await queue.get(TENANT, running.request_id))
        return least_s < seconds(ends_at) < most_s

    await eventually(estimated)


async def test_a_tenant_that_waits_for_a_limit_gets_an_estimate_from_its_own_requests(
    make: Make,
) -> None:
    queue = await make(replace(CALM, tenants={TENANT: TenantLimits(max_running=1)}))
    await teach_duration(queue, 100.0)
    await submit_many(queue, 1, work=10.0)
    await queue.ask(ask(4))
    await submit_many(queue, 1, work=10.0)
    last = await queue.submit(new(work=10.0))
    waiting = await waits_until(
        queue,
        last.id,
        lambda it: it.reason is WaitReason.LIMIT and 150 < seconds(it.starts_at) < 210,
    )
    assert 150 < seconds(waiting.starts_at) < 210


async def test_without_a_replica_there_is_no_estimate(make: Make) -> None:
    queue = await make(CALM)
    await teach_duration(queue, 100.0)
    drains = Presence("r1", "actor-r1", POOL, ReplicaStage.DRAINING)
    await queue.announce(drains)
    request = await queue.submit(new())
    # Rows read just before may still count at the next refresh.
    no_estimate = Waiting(0, WaitReason.NO_REPLICA)
    assert await waits_until(queue, request.id, no_estimate.__eq__) == no_estimate


async def test_a_run_from_a_snapshot_does_not_count_as_the_time_of_a_whole_one(make: Make) -> None:
    queue = await make(CALM)
    await teach_duration(queue, 100.0)
    await queue.submit(new(work=10.0))
    first = await lease(queue)
    await keep(queue, first.key)
    await queue.hand_back(first.key, "r1", "It drains.")
    rest = Outcome(output={}, usage=Usage(10.0, 4, 1.0))
    await queue.finish(make_finish((await lease(queue)).key, rest))
    # A request that ended later is known, so all before it are known too.
    other = "fal-ai/flux/dev"
    await teach_duration(queue, 300.0, endpoint=other)
    later = await queue.submit(new(work=10.0, endpoint=other))
    (running,) = (await queue.ask(ask(1))).leases
    assert running.request_id == later.id
    await knows(queue, running)
    await queue.submit(new(work=10.0))
    (granted,) = (await queue.ask(ask(1))).leases
    assert seconds(await queue.ends_at(await queue.get(TENANT, granted.request_id))) > 90


async def test_the_demand_says_how_long_the_queued_requests_take(make: Make) -> None:
    queue = await make(CALM)
    await teach_duration(queue, run_s=4.0)
    for endpoint in ("fal-ai/flux/schnell", "fal-ai/flux/schnell", "fal-ai/flux/new"):
        await queue.submit(new(endpoint=endpoint))

    async def known() -> bool:
        demand = (await queue.demand())[POOL]
        # A request of an endpoint that is not known counts as a minute.
        return demand.queued == 3 and demand.queued_s == pytest.approx(68.0)

    await eventually(known)


async def test_an_estimate_is_what_a_request_would_learn_if_it_was_submitted(make: Make) -> None:
    queue = await make(CALM)
    await teach_duration(queue, 100.0)
    await submit_many(queue, 3, work=10.0)
    running: Lease = (await queue.ask(ask(1))).leases[0]
    await knows(queue, running)
    new_request = new(work=20.0)

    async def is_known() -> bool:
        estimate = await queue.estimate(new_request)
        starts_s = seconds(estimate.waiting.starts_at)
        return estimate.waiting.position == 2 and 250 < starts_s < 310

    await eventually(is_known)
    estimated = await queue.estimate(new_request)
    assert estimated.runs_s == pytest.approx(200.0, rel=0.15)
    last = await queue.submit(new_request)
    assert last.id == new_request.id  # the estimate stored nothing
    waiting = await waits_until(queue, last.id, lambda it: 250 < seconds(it.starts_at) < 310)
    assert waiting.reason is estimated.waiting.reason


async def test_an_estimate_of_an_endpoint_that_has_never_run_has_no_seconds(make: Make) -> None:
    queue = await make(CALM)
    estimated = await queue.estimate(new())
    assert estimated.runs_s is None
    assert (await queue.demand()).get(POOL) is None or (await queue.demand())[POOL].queued == 0
