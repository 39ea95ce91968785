"""Queued requests whose pool is gone: they wait in another one."""

from __future__ import annotations

import pytest

from serve_app.domain.executors.fallback import (
    Fallback,
    FallbackMove,
    FallbackReason,
    QueuedGroup,
)
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, State
from tests.queue.requests import POOL, TENANT, lease, make_finish, new

OWN, OTHER, ELSEWHERE = "acme/own", "acme/other", "elsewhere"


async def test_requests_go_on_in_another_pool_in_their_order(queue: Queue) -> None:
    priorities = (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.NORMAL)
    low, first, high, second = [
        await queue.submit(new(endpoint=OWN, priority=priority)) for priority in priorities
    ]
    stays = await queue.submit(new(endpoint=OTHER))
    another = await queue.submit(new(endpoint=OWN, tenant="bob"))
    assert await queue.fallbacks.change_pool(QueuedGroup(POOL, TENANT, OWN), ELSEWHERE) == 4
    leased = [(await lease(queue, pool=ELSEWHERE)).request_id for _ in range(4)]
    assert leased == [high.id, first.id, second.id, low.id]
    assert {(await lease(queue)).request_id for _ in range(2)} == {stays.id, another.id}
    lines = [line.message for line in await queue.lines(TENANT, first.id)]
    assert f"It waits in the pool {ELSEWHERE} now: the pool {POOL} does not run its endpoint" in (
        "\n".join(lines)
    )


async def test_only_what_waits_in_no_pool_of_those_is_outside(queue: Queue) -> None:
    await queue.submit(new(endpoint=OWN))
    running = (await lease(queue)).key
    fallback = Fallback(OTHER, ELSEWHERE, errors=(), max_wait_s=1.0)
    falls = await queue.submit(new(endpoint=OWN, fallback=fallback))
    await queue.fallbacks.move([FallbackMove(falls.id, FallbackReason.MAX_WAIT)])
    for _ in range(2):
        await queue.submit(new(endpoint=OWN, tenant="bob"))
    await queue.submit(new(endpoint=OWN, priority=Priority.REALTIME))
    fell, waits = QueuedGroup(ELSEWHERE, TENANT, OTHER), QueuedGroup(POOL, "bob", OWN)
    assert await queue.fallbacks.queued_outside([]) == [fell, waits]
    assert await queue.fallbacks.queued_outside([POOL]) == [fell]
    assert await queue.fallbacks.queued_outside([POOL, ELSEWHERE]) == []
    assert await queue.fallbacks.queued_within([POOL, ELSEWHERE]) == [waits]
    assert await queue.fallbacks.queued_within([ELSEWHERE]) == []
    await queue.finish(make_finish(running))


@pytest.mark.parametrize("state", [State.RUNNING, State.SUCCEEDED])
async def test_what_has_started_stays_where_it_is(queue: Queue, state: State) -> None:
    request = await queue.submit(new(endpoint=OWN))
    leased = await lease(queue)
    if state is State.SUCCEEDED:
        await queue.finish(make_finish(leased.key))
    assert await queue.fallbacks.change_pool(QueuedGroup(POOL, TENANT, OWN), ELSEWHERE) == 0
    now = await queue.current(TENANT, request.id)
    assert (now.state, now.pool) == (state, POOL)
