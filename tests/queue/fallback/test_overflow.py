"""Requests that would wait too long behind those that stay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.audit.acts import Actor
from serve_app.domain.executors.fallback import FallbackMove, FallbackReason
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.request import Priority, Request, State
from serve_app.postgres.database import Database
from serve_app.queue.fallback.moves import PostgresFallbacks
from serve_app.queue.fallback.overflow import AT_ONCE, WaitingRequest, choose
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.state.positions import QueuePosition
from tests.contract.test_fallbacks_contract import CENT, ELSEWHERE, HOSTED, plan
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new

MANY = """
INSERT INTO requests (
    id, tenant, endpoint, endpoint_digest, pool, priority, state, input, fallback)
SELECT gen_random_uuid(), tenant, endpoint, endpoint_digest, pool, priority, state, input, fallback
FROM requests CROSS JOIN generate_series(1, %(count)s)
"""
NOW = datetime(2026, 11, 24, tzinfo=UTC)
EACH_S = 10.0


def waiting(position: int, **changes: Any) -> WaitingRequest:
    request = Request(
        *(f"r{position}", TENANT, "a/b", "own", State.QUEUED, {}, Priority.NORMAL, 0, 0, NOW)
    )
    place = QueuePosition(position, position * EACH_S)
    usual: dict[str, Any] = {
        "waited_s": 0.0,
        "max_wait_s": 35.0,
        "start_left_s": None,
        "end_left_s": None,
    }
    return WaitingRequest(request, place, **usual | {"runs_s": EACH_S} | changes)


def starts_in_s(request: Request, place: QueuePosition) -> float | None:
    del request
    return place.ahead_s


def test_what_would_start_too_late_leaves_and_the_rest_stays() -> None:
    moves = choose([waiting(n) for n in range(6)], starts_in_s)
    assert moves == [
        FallbackMove("r4", FallbackReason.MAX_WAIT),
        FallbackMove("r5", FallbackReason.MAX_WAIT),
    ]


def test_the_time_that_it_has_waited_counts() -> None:
    assert not choose([waiting(1, waited_s=25.0)], starts_in_s)
    assert choose([waiting(1, waited_s=25.1)], starts_in_s)


@pytest.mark.parametrize(
    ("changes", "moves"),
    [
        ({"end_left_s": 20.0}, False),
        ({"end_left_s": 19.9}, True),
        ({"end_left_s": 19.9, "runs_s": None}, False),
        ({"start_left_s": 10.0}, False),
        ({"start_left_s": 9.9}, True),
    ],
)
def test_a_deadline_that_would_be_missed_moves_it(changes: Any, *, moves: bool) -> None:
    choices = choose([waiting(1, **changes)], starts_in_s)
    assert choices == ([FallbackMove("r1", FallbackReason.DEADLINE)] if moves else [])


def test_without_an_estimate_it_leaves_when_it_has_waited_so_long() -> None:
    given_ = [waiting(0, waited_s=36.0), waiting(1, waited_s=34.0, end_left_s=0.0)]
    assert [move.request_id for move in choose(given_, lambda *_: None)] == ["r0"]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1, 100)), max_size=12))
def test_nothing_that_stays_starts_too_late(times: list[tuple[float, float]]) -> None:
    given_ = [waiting(n, waited_s=w, max_wait_s=m) for n, (w, m) in enumerate(times)]
    gone = {move.request_id for move in choose(given_, starts_in_s)}
    stays = [candidate for candidate in given_ if candidate.request.id not in gone]
    for ahead, staying in enumerate(stays):
        assert staying.waited_s + ahead * EACH_S <= staying.max_wait_s + 1e-6


async def teach_duration(queue: PostgresQueue, run_s: float) -> None:
    """Run one request, so that the next ones are expected to take as long."""
    await queue.submit(new())
    outcome = Outcome(output={}, usage=Usage(run_s, 4, 1.0))
    await queue.finish(make_finish((await lease(queue)).key, outcome))
    await queue.parts.state.costs.refresh()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await true():  # noqa: ASYNC110  the database does not call us
            await asyncio.sleep(0.02)


async def test_the_back_of_a_long_queue_runs_elsewhere(ingress: Ingress) -> None:
    queue = await ingress()
    await teach_duration(queue, 400.0)
    requests = [
        await queue.submit(new(fallback=plan(max_wait_s=1000.0), price=CENT)) for _ in range(5)
    ]
    running = await lease(queue)
    assert running.request_id == requests[0].id

    async def fell() -> list[str]:
        now = [await queue.current(TENANT, request.id) for request in requests]
        return [current.id for current in now if current.fell_back_to]

    # They start after 400, 800, 1200 and 1600 s.
    async def two() -> bool:
        return len(await fell()) >= 2

    await until(two)
    assert await fell() == [request.id for request in requests[3:]]
    work = await queue.ask(ask(9, replica="r2", pool=ELSEWHERE))
    assert {granted.endpoint.id for granted in work.leases} == {HOSTED}
    assert [granted.request_id for granted in work.leases] == [
        request.id for request in requests[3:]
    ]


async def test_a_request_that_has_just_ended_counts_no_longer_as_ahead_of_others(
    ingress: Ingress,
) -> None:
    queue = await ingress(replace(LONG_LEASES, check_interval_s=600.0))
    state = queue.parts.state
    await teach_duration(queue, 400.0)
    await queue.submit(new())
    running = await lease(queue)
    await state.replicas.flush()
    await state.stats.refresh()
    await queue.finish(make_finish(running.key))
    requests = [
        await queue.submit(new(fallback=plan(max_wait_s=1000.0), price=CENT)) for _ in range(3)
    ]
    await queue._overflow.look()
    now = [await queue.current(TENANT, request.id) for request in requests]
    assert not [current for current in now if current.fell_back_to]  # the last starts after 800 s


@pytest.mark.parametrize("act", ["pause", "drain"])
async def test_nothing_moves_to_an_endpoint_that_is_paused_or_drained(
    ingress: Ingress, act: str
) -> None:
    """It could not come back, and waited there although its own pool would have run it."""
    queue = await ingress(replace(LONG_LEASES, check_interval_s=600.0))
    operator = Actor("k", "")
    await getattr(queue.operations, act)(HOSTED, operator)
    request = await queue.submit(new(fallback=plan(max_wait_s=0.001), price=CENT))
    await queue._overflow.look()
    assert not (await queue.current(TENANT, request.id)).fell_back_to
    await queue.operations.resume(HOSTED, operator)

    async def fell() -> bool:
        await queue._overflow.look()
        return (await queue.current(TENANT, request.id)).fell_back_to == HOSTED

    await until(fell)


async def test_a_long_queue_of_another_pool_does_not_keep_a_request_waiting(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await queue.submit(new(pool="another", fallback=plan(max_wait_s=1e6), price=CENT))
    await database.rows(MANY, {"count": AT_ONCE})
    request = await queue.submit(new(fallback=plan(max_wait_s=0.001), price=CENT))

    async def fell() -> bool:
        return bool((await queue.current(TENANT, request.id)).fell_back_to)

    await until(fell)


async def test_a_move_whose_process_dies_after_its_commit_is_leased_by_others(
    ingress: Ingress,
) -> None:
    class Killed(Exception):
        pass

    class Mortal:
        def changed_pools(self, *_: object) -> None:
            raise Killed

    dying, other = await ingress(), await ingress()
    request = await dying.submit(new(fallback=plan(), price=CENT))
    parts = dying.parts
    mortal: Any = Mortal()
    moves = PostgresFallbacks(dying._database, parts.state, mortal, parts.metrics)
    with pytest.raises(Killed):
        await moves.move([FallbackMove(request.id, FallbackReason.MAX_WAIT)])
    async with asyncio.timeout(120):
        while not (work := await other.ask(ask(1, pool=ELSEWHERE))).leases:
            pass
    assert work.leases[0].endpoint.id == HOSTED
    await other.finish(make_finish(work.leases[0].key))
    assert (await other.current(TENANT, request.id)).state is State.SUCCEEDED


async def test_a_fallback_opens_the_lane_of_a_tenant_that_had_none_there(ingress: Ingress) -> None:
    queue = await ingress()
    await queue.submit(new(fallback=plan(), price=CENT))
    lease_key = (await lease(queue)).key
    await queue.finish(make_finish(lease_key, failure("out_of_memory")))
    async with asyncio.timeout(120):
        while not (await queue.ask(ask(1, pool=ELSEWHERE))).leases:
            pass
