"""Contract of requests that represent realtime sessions: over the fake queue and over
PostgreSQL.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import psycopg

from serve_app.domain.billing.price import ONE_FRAME, Price, PriceUnit
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, State
from serve_app.settings import BudgetConfig, TenantLimits
from tests.contract.queues import Make
from tests.contract.test_fairness_contract import CALM
from tests.fakes.queue import FakeQueue
from tests.queue.requests import POOL, TENANT, ask, make_finish, new, new_id


async def session_of(queue: Queue, **changes: object):
    await queue.submit(new(priority=Priority.REALTIME, work=0.0, input={}, **changes))
    (lease,) = (await queue.ask(ask(1))).leases
    return lease


async def test_a_session_is_leased_without_tickets_and_says_what_it_is(queue: Queue) -> None:
    lease = await session_of(queue)
    assert lease.priority is Priority.REALTIME
    assert lease.upload_tickets == ()
    assert (await queue.demand())[POOL].running == 1


async def test_a_session_goes_before_what_its_tenant_has_waiting(make: Make) -> None:
    queue = await make(CALM)
    await queue.submit(new(priority=Priority.HIGH))
    lease = await session_of(queue)
    assert lease.priority is Priority.REALTIME


async def test_sessions_are_open_from_their_submit_to_their_end(make: Make) -> None:
    queue, elsewhere = await make(), "video"
    lease = await session_of(queue)
    await queue.submit(new(priority=Priority.HIGH))
    waiting = await queue.submit(new(priority=Priority.REALTIME, work=0.0))
    await queue.submit(new(priority=Priority.REALTIME, work=0.0, pool=elsewhere))
    await queue.submit(new(priority=Priority.REALTIME, work=0.0, tenant="bob"))
    assert await queue.open_sessions(TENANT, POOL) == 2
    assert await queue.open_sessions(TENANT, elsewhere) == 1
    await queue.cancel(TENANT, waiting.id)
    assert await queue.open_sessions(TENANT, POOL) == 1
    await queue.finish(make_finish(lease.key))
    assert await queue.open_sessions(TENANT, POOL) == 0
    assert await queue.open_sessions("bob", POOL) == 1


async def usage_ids(queue: Queue, at: str | None) -> list[str]:
    """Ids of the usage lines."""
    if isinstance(queue, FakeQueue):
        return queue.usage
    async with await psycopg.AsyncConnection.connect(at or "") as connection:
        rows = await connection.execute("SELECT request_id::text FROM usage ORDER BY at")
        return [row[0] for row in await rows.fetchall()]


async def test_a_frame_is_counted_once(make: Make, at: str | None) -> None:
    queue = await make()
    before = len(await usage_ids(queue, at))
    lease = await session_of(queue)
    frame, usage = new_id(), Usage(run_s=0.5, steps=4, units=1.0)
    for _ in range(2):
        await queue.record_frame(lease.key, frame, State.SUCCEEDED, usage)
    await queue.finish(make_finish(lease.key, Outcome(output={"frames": 1})))
    assert (await usage_ids(queue, at))[before:] == [frame, lease.request_id]


async def test_frames_exceed_a_budget_when_the_next_one_is_not_covered(make: Make) -> None:
    price = Price(PriceUnit.IMAGE, Decimal("0.02"), "EUR")
    budget = BudgetConfig(amount=Decimal("0.05"), currency="EUR")
    same = TenantLimits(budget=budget)
    queue = await make(replace(CALM, tenants={TENANT: same, "bob": same}))
    session = await session_of(queue, price=price, expected=ONE_FRAME)
    usage = Usage(run_s=0.5, steps=4, units=1.0)
    for cents, exceeded in ((1, False), (-1, True)):  # with the frame that the session has reserved
        await queue.record_frame(session.key, new_id(), State.SUCCEEDED, usage)
        left = await queue.budget_left(TENANT)
        assert left is not None
        assert (left.limit, left.remaining) == (budget.amount, Decimal(cents) / 100)
        assert left.forbids("EUR") is exceeded
        assert not left.forbids("USD")
    others = await queue.budget_left("bob")
    assert others is not None
    assert others.remaining == budget.amount
    assert await queue.budget_left("carol") is None


async def test_how_long_a_session_stays_says_nothing_about_other_requests(make: Make) -> None:
    queue = await make(CALM)
    lease = await session_of(queue)
    await queue.finish(make_finish(lease.key, Outcome(output={}, usage=Usage(run_s=3600.0))))
    request = await queue.submit(new())
    assert (await queue.waiting(request)).starts_at is None
    assert (await queue.get(TENANT, request.id)).state is State.QUEUED
