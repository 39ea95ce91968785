"""A `run` that comes while a replica's poll is on its way is stored when the poll arrives, and
leased in its insert. No other request waits for a poll.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.domain.ports import Queue
from serve_app.domain.request import Request, State
from serve_app.postgres.database import Database
from serve_app.queue import long_poll
from serve_app.queue.state import waiters
from serve_app.queue.state.waiters import PROMPT_RETURNS
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import ask, new

SLOTS = 4
LIMITS = replace(LONG_LEASES, ask_wait_s=600.0, check_interval_s=600.0)
COUNT = "SELECT count(*) FROM requests"
LEASED_LATER = "SELECT count(*) FROM requests WHERE started_at > created_at"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica is expected for as long as a test takes."""
    monkeypatch.setattr(waiters, "RETURN_S", 600.0)
    monkeypatch.setattr(long_poll, "RETURN_S", 600.0)


async def given_work(queue: Queue, slots: int = SLOTS) -> None:
    """Let a replica return often enough to be expected, and give it one request."""
    for _ in range(PROMPT_RETURNS + 1):
        polling = asyncio.create_task(queue.ask(ask(slots)))
        await queue.submit(new(answered_at_end=True))
        work = await polling
        assert len(work.leases) == 1


async def count_stored(database: Database) -> int:
    ((count,),) = await database.rows(COUNT)
    return int(count)


def run(queue: Queue) -> asyncio.Task[Request]:
    return asyncio.create_task(queue.submit(new(answered_at_end=True)))


async def test_runs_wait_for_the_poll_of_a_replica_that_was_given_work(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    await given_work(queue)
    before = await count_stored(database)
    ((leased_later,),) = await database.rows(LEASED_LATER)
    runs = [run(queue) for _ in range(SLOTS - 1)]
    for _ in range(5):
        assert await count_stored(database) == before
    work = await queue.ask(ask(SLOTS))
    requests = await asyncio.gather(*runs)
    assert {granted.request_id for granted in work.leases} == {request.id for request in requests}
    assert {request.state for request in requests} == {State.RUNNING}
    # In the same transaction as the insert.
    assert await database.rows(LEASED_LATER) == [(leased_later,)]


async def test_a_submit_that_is_answered_at_its_insert_does_not_wait(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    await given_work(queue)
    request = await queue.submit(new())
    assert request.state is State.QUEUED


async def test_a_run_does_not_wait_if_what_is_queued_takes_the_slots(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    await given_work(queue)
    first = [await queue.submit(new()) for _ in range(SLOTS - 1)]
    behind = await run(queue)
    assert behind.state is State.QUEUED
    work = await queue.ask(ask(SLOTS - 1))
    assert {granted.request_id for granted in work.leases} == {request.id for request in first}


async def test_a_run_is_queued_if_the_poll_does_not_come(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await ingress(LIMITS)
    await given_work(queue)
    monkeypatch.setattr(long_poll, "RETURN_S", 0.05)
    request = await run(queue)
    assert request.state is State.QUEUED
    work = await queue.ask(ask())
    assert [granted.request_id for granted in work.leases] == [request.id]


async def test_a_run_is_passed_over_by_one_poll_at_most(ingress: Ingress) -> None:
    queue = await ingress(LIMITS)
    await given_work(queue)
    run_task = run(queue)
    for _ in range(2):
        flood = await queue.submit(new(tenant="mallory"))
        assert not run_task.done()
        work = await queue.ask(ask(SLOTS))
        assert flood.id in {granted.request_id for granted in work.leases}
    assert (await run_task).state in (State.QUEUED, State.RUNNING)


async def test_held_runs_are_stored_when_the_ingress_stops(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LIMITS)
    await given_work(queue)
    run_task = run(queue)
    await count_stored(database)
    assert not run_task.done()
    await queue.aclose()
    assert (await run_task).state is State.QUEUED
