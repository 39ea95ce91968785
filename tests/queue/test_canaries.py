"""A canary takes requests beside its pool, is compared with it, and returns when it does worse."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.domain.lease import Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.request import State
from serve_app.queue.queue import PostgresQueue
from serve_app.settings.overflow import OverflowPools
from tests.deployments.waiting import until
from tests.queue.database import LONG_ASKS, Ingress
from tests.queue.requests import POOL, TENANT, ask, failure, make_finish, new, report

CANARY = "next"


def canary(runs: str) -> OverflowPools:
    return OverflowPools({CANARY: POOL}, canaries={CANARY: runs})


LIMITS = replace(LONG_ASKS, overflow=canary("first"))


async def run(queue: PostgresQueue, pool: str, times: int, outcome: Outcome) -> None:
    for _ in range(times):
        await queue.submit(new())
        lease = await take_lease(queue, pool)
        await queue.finish(make_finish(lease.key, outcome, replica=pool))


async def take_lease(queue: PostgresQueue, pool: str) -> Lease:
    (lease,) = (await queue.ask(ask(1, replica=pool, pool=pool))).leases
    await queue.report(report(lease.key, replica=pool))
    return lease


def took(seconds: float) -> Outcome:
    return Outcome(output={}, usage=Usage(seconds, 4, 1.0))


async def fail(queue: PostgresQueue, requests: int) -> list[str]:
    """Let so many requests fail in the canary, each once; returns their ids."""
    ids = [(await queue.submit(new())).id for _ in range(requests)]
    leases: list[Lease] = []
    while len(leases) < requests:
        poll = ask(requests - len(leases), replica=CANARY, pool=CANARY)
        leases += (await queue.ask(poll)).leases
    await queue.report(report(*(running.key for running in leases), replica=CANARY))
    for granted in leases:
        await queue.finish(make_finish(granted.key, failure(), replica=CANARY))
    return ids


async def until_noted(queue: PostgresQueue, attempts: int) -> None:
    """Wait until as many of the canary's attempts are compared."""
    canaries = queue.parts.state.canaries
    async with asyncio.timeout(120):
        while f"of {attempts} attempts failed" not in await canary_message(queue):
            await canaries.refresh()
            await canaries.judge()
            await canaries.refresh()


async def canary_message(queue: PostgresQueue) -> str:
    return (await queue.demand())[CANARY].canary


async def test_a_canary_and_its_pool_take_turns_at_one_queue(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    assert queue.parts.polls._offer(ask(1, pool=CANARY)).rank == 0
    stored = await queue.submit(new())
    lease = await take_lease(queue, CANARY)
    assert lease.request_id == stored.id


async def test_a_canary_that_fails_more_often_returns_and_what_failed_there_succeeds_beside_it(
    ingress: Ingress,
) -> None:
    queue = await ingress(LIMITS)
    await run(queue, POOL, 20, took(1.0))
    ids = await fail(queue, 3)
    await until_noted(queue, 3)
    demand = (await queue.demand())[CANARY]
    assert demand.returned
    assert demand.canary == (
        "returned because it fails more often: 3 of 3 attempts failed (studio: 0 of 20)"
    )
    assert not (await queue.ask(replace(ask(1, replica="n2", pool=CANARY), wait_s=0.2))).leases
    for _ in ids:
        await queue.finish(make_finish((await take_lease(queue, POOL)).key, replica=POOL))
    ended = [await queue.get(TENANT, request_id) for request_id in ids]
    assert [(request.state, request.failures) for request in ended] == [(State.SUCCEEDED, 1)] * 3


async def test_what_failed_in_a_canary_is_left_to_the_pool_beside_it(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    (failed,) = await fail(queue, 1)
    fresh = await queue.submit(new())
    assert (await take_lease(queue, CANARY)).request_id == fresh.id
    assert not (await queue.ask(replace(ask(1, replica="n2", pool=CANARY), wait_s=0.2))).leases
    assert (await take_lease(queue, POOL)).request_id == failed


@pytest.mark.long
async def test_a_canary_that_takes_longer_returns(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    await run(queue, POOL, 20, took(1.0))
    await run(queue, CANARY, 10, took(2.0))
    await until_noted(queue, 10)
    assert "it takes longer" in await canary_message(queue)


@pytest.mark.long
async def test_a_canary_that_does_as_well_goes_on_and_says_so(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    await run(queue, POOL, 20, took(1.0))
    await run(queue, CANARY, 11, took(1.1))
    await until_noted(queue, 11)
    assert not (await queue.demand())[CANARY].returned
    assert (await canary_message(queue)).startswith("0 of 11 attempts failed (studio: 0 of 20)")
    await run(queue, CANARY, 1, took(1.0))


@pytest.mark.long
async def test_every_process_knows_of_the_return_and_other_code_begins_anew(
    ingress: Ingress,
) -> None:
    first, second = await ingress(replace(LIMITS)), await ingress(replace(LIMITS))
    await run(first, POOL, 20, took(1.0))
    await fail(second, 3)
    await second.parts.state.canaries.refresh()  # it writes what it has noted
    await until_noted(first, 3)
    await until(lambda: second.parts.state.canaries.has_returned(CANARY))
    second.parts.polls._limits.overflow = canary("second")
    await until(lambda: not second.parts.state.canaries.has_returned(CANARY))
    await second.submit(new())
    await take_lease(second, CANARY)
