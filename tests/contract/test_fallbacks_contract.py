"""Requests that run at another endpoint than their own, after a wait or a failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.price import Price, PriceUnit, Quantities
from serve_app.domain.errors import BudgetExhausted
from serve_app.domain.executors.fallback import (
    Fallback,
    FallbackBudget,
    FallbackMove,
    FallbackReason,
)
from serve_app.domain.lease import Verdict
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.request import NONE, CancelVerdict, Request, State
from serve_app.settings import BudgetConfig, TenantLimits
from serve_app.telemetry.clock import SystemClock
from tests.contract.queues import Make
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import LONG_LEASES
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new, report

HOSTED, ELSEWHERE = "acme/hosted", "elsewhere"
CENT, EURO = (Price(PriceUnit.REQUEST, Decimal(amount), "EUR") for amount in ("0.01", "1"))
WAIT = FallbackReason.MAX_WAIT


def plan(**changes: Any) -> Fallback:
    fields: dict[str, Any] = {
        "endpoint": HOSTED,
        "pool": ELSEWHERE,
        "errors": ("out_of_memory", "poison"),
        "max_wait_s": 5.0,
        "price": EURO,
    }
    return Fallback(**fields | changes)


async def submit_with_fallback(queue: Queue, fallback: Fallback | None, **changes: Any) -> Request:
    return await queue.submit(new(fallback=fallback, price=CENT, **changes))


async def move_requests(queue: Queue, *requests: Request) -> list[str]:
    moves = [FallbackMove(request.id, WAIT) for request in requests]
    return sorted(await queue.fallbacks.move(moves))


async def billed_amounts(queue: Queue) -> dict[str, Decimal]:
    now = SystemClock().now()
    edges = [now - timedelta(days=1), now + timedelta(days=1)]
    return {
        total.endpoint: total.amount for total in await queue.ledger.usage_totals(TENANT, edges)
    }


async def test_a_request_that_waits_runs_at_its_fallback_and_costs_what_that_costs(
    queue: Queue,
) -> None:
    request = await submit_with_fallback(queue, plan(fields={"prompt": "text"}))
    assert await move_requests(queue, request) == [request.id]
    waiting = await queue.current(TENANT, request.id)
    assert (waiting.endpoint, waiting.runs_at) == (request.endpoint, HOSTED)
    assert (waiting.fell_back_for, waiting.state) == ("max_wait", State.QUEUED)
    assert not (await queue.ask(replace(ask(), wait_s=0.05))).leases
    leased = await lease(queue, pool=ELSEWHERE)
    assert (leased.endpoint.id, leased.request_id) == (HOSTED, request.id)
    assert leased.input == {"text": "a red circle"}
    assert await queue.finish(make_finish(leased.key)) is Verdict.ACCEPTED
    ended = await queue.current(TENANT, request.id)
    assert (ended.state, ended.endpoint, ended.price) == (State.SUCCEEDED, request.endpoint, EURO)
    assert await billed_amounts(queue) == {HOSTED: Decimal(1)}
    lines = [line.message for line in await queue.lines(TENANT, request.id)]
    assert "It falls back to acme/hosted (max_wait)." in lines


async def test_a_failure_of_a_listed_class_is_not_the_end(queue: Queue) -> None:
    request = await submit_with_fallback(queue, plan(), retries=None)
    leased = await lease(queue)
    outcome = failure("out_of_memory", retryable=False)
    assert await queue.finish(make_finish(leased.key, outcome)) is Verdict.ACCEPTED
    again = await queue.current(TENANT, request.id)
    assert (again.state, again.outcome, again.pool) == (State.QUEUED, None, ELSEWHERE)
    assert (again.fell_back_to, again.fell_back_for) == (HOSTED, "out_of_memory")
    assert await queue.finish(make_finish(leased.key, outcome)) is Verdict.ACCEPTED  # repeated
    other = await lease(queue, pool=ELSEWHERE)
    assert other.attempt == 2
    assert await queue.finish(make_finish(other.key)) is Verdict.ACCEPTED
    assert (await queue.current(TENANT, request.id)).state is State.SUCCEEDED
    assert await billed_amounts(queue) == {HOSTED: Decimal(1)}
    (line,) = [
        entry for entry in await queue.lines(TENANT, request.id) if "falls back" in entry.message
    ]
    assert line.message == (
        "It went wrong: out_of_memory. It falls back to acme/hosted (out_of_memory)."
    )


async def test_a_failure_falls_back_after_its_retries_only(queue: Queue) -> None:
    request = await submit_with_fallback(queue, plan())
    for _ in range(3):  # as often as the tests' queue allows
        leased = await lease(queue)
        await queue.finish(make_finish(leased.key, failure("out_of_memory", retryable=True)))
    again = await queue.current(TENANT, request.id)
    assert (again.fell_back_to, again.failures, again.state) == (HOSTED, 0, State.QUEUED)
    leased = await lease(queue, pool=ELSEWHERE)
    await queue.finish(make_finish(leased.key, failure("out_of_memory")))
    ended = await queue.current(TENANT, request.id)
    assert (ended.state, ended.fell_back_to) == (State.FAILED, HOSTED)  # it falls back once
    assert await billed_amounts(queue) == {HOSTED: Decimal(0)}


async def test_other_failures_and_ends_stay_as_they_are(queue: Queue) -> None:
    plain = await submit_with_fallback(queue, None)
    other = await submit_with_fallback(queue, plan(errors=("weights_unavailable",)))
    for _ in range(2):
        leased = await lease(queue)
        await queue.finish(make_finish(leased.key, failure("out_of_memory")))
    for stored in (plain, other):
        ended = await queue.current(TENANT, stored.id)
        assert (ended.state, ended.fell_back_to) == (State.FAILED, "")


async def test_a_cancelled_request_does_not_fall_back(queue: Queue) -> None:
    request = await submit_with_fallback(queue, plan())
    leased = await lease(queue)
    assert await queue.cancel(TENANT, request.id) is CancelVerdict.REQUESTED
    await queue.finish(make_finish(leased.key, failure("out_of_memory")))
    ended = await queue.current(TENANT, request.id)
    assert ended.state.final
    assert ended.fell_back_to == ""


async def test_a_lost_replica_falls_back_where_its_class_is_listed(
    queue: Queue, liveness: FakeLiveness
) -> None:
    request = await submit_with_fallback(queue, plan(errors=("replica_died",)), retries=NONE)
    await lease(queue)
    liveness.buried.add("actor-r1")
    leased = await lease(queue, replica="r2", pool=ELSEWHERE)
    assert leased.request_id == request.id
    assert (await queue.current(TENANT, request.id)).fell_back_for == "replica_died"


async def test_only_what_still_waits_moves_and_only_once(queue: Queue) -> None:
    running = await submit_with_fallback(queue, plan())
    await lease(queue)
    cancelled, once, none = [
        await submit_with_fallback(queue, fallback) for fallback in (plan(), plan(), None)
    ]
    await queue.cancel(TENANT, cancelled.id)
    assert await move_requests(queue, running, cancelled, once, none) == [once.id]
    assert await move_requests(queue, running, cancelled, once, none) == []


async def test_a_pause_of_either_endpoint_holds_it(queue: Queue) -> None:
    request = await submit_with_fallback(queue, plan())
    await move_requests(queue, request)
    for endpoint in (HOSTED, request.endpoint):
        await queue.operations.pause(endpoint, Actor("k", ""))
        assert not (await queue.ask(replace(ask(pool=ELSEWHERE), wait_s=0.1))).leases
        await queue.operations.resume(endpoint, Actor("k", ""))
    assert (await lease(queue, pool=ELSEWHERE)).request_id == request.id


async def test_a_request_with_a_snapshot_goes_on_where_it_began(queue: Queue) -> None:
    request = await submit_with_fallback(queue, plan())
    leased = await lease(queue)
    key = f"s/{request.id}/1/a.bin"
    await queue.hand_back(leased.key, "r1", "it drains", StoredSnapshot(key, 3))
    assert await move_requests(queue, request) == []


async def test_a_snapshot_is_not_resumed_at_the_fallback(queue: Queue) -> None:
    await submit_with_fallback(queue, plan())
    leased = await lease(queue)
    key = f"s/{leased.request_id}/1/a.bin"
    kept = replace(report(leased.key), snapshots=((leased.key, StoredSnapshot(key, 3)),))
    await queue.report(kept)
    await queue.finish(make_finish(leased.key, failure("out_of_memory")))
    assert (await lease(queue, pool=ELSEWHERE)).snapshot_url is None


async def test_a_budget_covers_so_many_requests(queue: Queue) -> None:
    budget = FallbackBudget(Decimal("2.50"), "EUR", "day")
    limited = plan(cost=Decimal(1), budget=budget)
    waiting = [await submit_with_fallback(queue, limited) for _ in range(3)]
    gone = await move_requests(queue, *waiting)
    assert gone == sorted(request.id for request in waiting[:2])
    assert await queue.fallbacks.period_cost(waiting[0].endpoint, "EUR") == 2
    leased = await lease(queue)  # the third runs in its own pool, and ends there
    await queue.finish(make_finish(leased.key, failure("out_of_memory")))
    assert (await queue.current(TENANT, waiting[2].id)).state is State.FAILED
    assert await queue.fallbacks.period_cost(waiting[0].endpoint, "EUR") == 2


async def test_moves_at_once_do_not_exceed_a_budget(queue: Queue) -> None:
    budget = FallbackBudget(Decimal(3), "EUR", "month")
    limited = plan(cost=Decimal(1), budget=budget)
    waiting = [await submit_with_fallback(queue, limited) for _ in range(8)]
    await asyncio.gather(*(move_requests(queue, *waiting[n:], *waiting[:n]) for n in range(8)))
    now = [await queue.current(TENANT, request.id) for request in waiting]
    assert sum(request.fell_back_to == HOSTED for request in now) == 3
    assert await queue.fallbacks.period_cost(waiting[0].endpoint, "EUR") == 3


async def test_an_outcome_of_the_fallback_is_not_reused(queue: Queue) -> None:
    first = await submit_with_fallback(queue, plan(), reuse_digest=b"d" * 32)
    follower = await submit_with_fallback(queue, plan(), reuse_digest=b"d" * 32)
    assert follower.follows == first.id
    assert await move_requests(queue, first, follower) == [first.id]
    leased = await lease(queue, pool=ELSEWHERE)
    await queue.finish(make_finish(leased.key, Outcome(output={"n": 1})))
    shared = await queue.wait(TENANT, follower.id, 10)
    assert (shared.state, shared.reuses) == (State.SUCCEEDED, first.id)
    assert (shared.fell_back_to, shared.fell_back_for) == (HOSTED, WAIT)
    later = await submit_with_fallback(queue, plan(), reuse_digest=b"d" * 32)
    assert later.state is State.QUEUED


async def test_a_request_that_may_not_fall_back_waits_for_none_that_may(queue: Queue) -> None:
    same = {"reuse_digest": b"d" * 32}
    may = [await submit_with_fallback(queue, plan(), **same) for _ in range(2)]
    stays = [await submit_with_fallback(queue, None, **same) for _ in range(2)]
    assert [request.follows for request in may] == [None, may[0].id]
    assert [request.follows for request in stays] == [None, stays[0].id]
    plans = (plan(), None, plan(), None)
    at_once = await asyncio.gather(
        *(submit_with_fallback(queue, fallback, reuse_digest=b"e" * 32) for fallback in plans)
    )
    for pair in (at_once[::2], at_once[1::2]):  # either of the two may be first
        (leader,) = (request.id for request in pair if request.follows is None)
        assert {request.follows for request in pair} == {None, leader}


async def test_a_budget_of_a_tenant_covers_the_dearer_of_both_prices(make: Make) -> None:
    budget = BudgetConfig(amount=Decimal("1.50"), currency="EUR")
    limits = replace(LONG_LEASES, tenants={TENANT: TenantLimits(budget=budget)})
    queue = await make(limits)
    request = await submit_with_fallback(queue, plan(expected=Quantities()), expected=Quantities())
    with pytest.raises(BudgetExhausted):  # the first one may cost a euro
        await submit_with_fallback(queue, plan(expected=Quantities()), expected=Quantities())
    leased = await lease(queue)
    await queue.finish(make_finish(leased.key))
    assert await billed_amounts(queue) == {request.endpoint: Decimal("0.01")}
    await submit_with_fallback(queue, plan(expected=Quantities()), expected=Quantities())
