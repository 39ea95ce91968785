"""Contract of ``PartialResults``: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from serve_app.domain.errors import Fenced, RequestNotFound
from serve_app.domain.executors.partial_results import PartialResults
from serve_app.domain.lease import LeaseKey
from serve_app.domain.ports import Queue
from serve_app.domain.progress import MAX_PARTIALS_READ, NOTHING_SEEN, PartialResult
from serve_app.queue.queue import PostgresQueue
from tests.fakes.partial_results import FakePartialResults
from tests.queue.requests import TENANT, lease, make_finish, new


@pytest.fixture
async def partials(queue: Queue) -> AsyncIterator[PartialResults]:
    if isinstance(queue, PostgresQueue):
        yield queue.partials
    else:
        yield FakePartialResults(queue)


async def held_by(queue: Queue) -> LeaseKey:
    await queue.submit(new())
    return (await lease(queue)).key


def make_results(lease_key: LeaseKey, *numbers: int) -> list[PartialResult]:
    return [PartialResult(lease_key.attempt, number, f'{{"n": {number}}}') for number in numbers]


async def test_values_are_read_in_their_order_after_the_last_seen(
    partials: PartialResults, queue: Queue
) -> None:
    key = await held_by(queue)
    await partials.add(key, make_results(key, 1, 0), 0)
    await partials.add(key, make_results(key, 2), 0)
    assert await partials.after(TENANT, key.request_id, NOTHING_SEEN) == make_results(key, 0, 1, 2)
    assert await partials.after(TENANT, key.request_id, (key.attempt, 1)) == make_results(key, 2)
    assert await partials.after(TENANT, key.request_id, (key.attempt, 2)) == []


async def test_a_repeated_call_changes_nothing(partials: PartialResults, queue: Queue) -> None:
    key = await held_by(queue)
    await partials.add(key, make_results(key, 0), 0)
    await partials.add(key, [PartialResult(key.attempt, 0, "{}"), *make_results(key, 1)], 0)
    assert await partials.after(TENANT, key.request_id, NOTHING_SEEN) == make_results(key, 0, 1)


async def test_a_page_has_a_bound_and_the_next_one_goes_on(
    partials: PartialResults, queue: Queue
) -> None:
    key = await held_by(queue)
    every = make_results(key, *range(MAX_PARTIALS_READ + 3))
    await partials.add(key, every, 0)
    page = await partials.after(TENANT, key.request_id, NOTHING_SEEN)
    assert page == every[:MAX_PARTIALS_READ]
    assert await partials.after(TENANT, key.request_id, page[-1].position) == every[-3:]


async def test_old_values_are_forgotten_when_the_replica_says_so(
    partials: PartialResults, queue: Queue
) -> None:
    key = await held_by(queue)
    await partials.add(key, make_results(key, 0, 1, 2), 0)
    await partials.add(key, make_results(key, 3), 2)
    assert await partials.after(TENANT, key.request_id, NOTHING_SEEN) == make_results(key, 2, 3)


async def test_values_are_there_after_the_end(partials: PartialResults, queue: Queue) -> None:
    key = await held_by(queue)
    await partials.add(key, make_results(key, 0), 0)
    await queue.finish(make_finish(key))
    assert await partials.after(TENANT, key.request_id, NOTHING_SEEN) == make_results(key, 0)


async def test_only_the_holder_of_a_lease_adds_values(
    partials: PartialResults, queue: Queue
) -> None:
    key = await held_by(queue)
    await queue.finish(make_finish(key))
    with pytest.raises(Fenced):
        await partials.add(key, make_results(key, 0), 0)
    assert await partials.after(TENANT, key.request_id, NOTHING_SEEN) == []


async def test_values_belong_to_their_tenant(partials: PartialResults, queue: Queue) -> None:
    key = await held_by(queue)
    await partials.add(key, make_results(key, 0), 0)
    with pytest.raises(RequestNotFound):
        await partials.after("bob", key.request_id, NOTHING_SEEN)


async def test_a_deleted_request_has_no_values(partials: PartialResults, queue: Queue) -> None:
    key = await held_by(queue)
    await partials.add(key, make_results(key, 0), 0)
    await queue.finish(make_finish(key))
    await queue.delete(TENANT, key.request_id)
    with pytest.raises(RequestNotFound):
        await partials.after(TENANT, key.request_id, NOTHING_SEEN)


async def test_a_reader_is_woken_by_a_value(partials: PartialResults, queue: Queue) -> None:
    key = await held_by(queue)
    waiting = asyncio.create_task(partials.wait(key.request_id, 600.0))
    await asyncio.sleep(0)
    await partials.add(key, make_results(key, 0), 0)
    await asyncio.wait_for(waiting, 60.0)


async def test_a_reader_does_not_wait_for_longer_than_it_says(
    partials: PartialResults, queue: Queue
) -> None:
    key = await held_by(queue)
    await asyncio.wait_for(partials.wait(key.request_id, 0.01), 60.0)
