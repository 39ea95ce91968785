"""Memory of the request cache: bounded in bytes, and invisible to callers."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace

import pytest

from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Request, State
from serve_app.postgres.database import Database
from serve_app.queue.state.request_cache import KEPT_S, RequestCache
from serve_app.queue.transactions.insert import EncodedInput, NewRow, insert_requests
from serve_app.telemetry.clock import SystemClock
from tests.contract.test_events_contract import collect_events
from tests.fakes.clock import FakeClock
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, lease, make_finish, new

BUDGET = 2**20
LARGE = {f"field_{n}": chr(97 + n) * 2000 for n in range(20)}  # 40 kB: shown whole


def prompt(n: int) -> dict[str, str]:
    return {name: f"{n} {text}" for name, text in LARGE.items()}


async def test_memory_for_many_large_inputs_stays_within_the_budget(database: Database) -> None:
    cache = RequestCache(database, SystemClock(), BUDGET)
    requests = [new(input=prompt(n)) for n in range(150)]
    for request in requests:
        await insert_requests(database, [NewRow(request, EncodedInput(request.input))], 60.0)
    sizes: list[int] = []
    ids = [inserted.id for inserted in requests]
    await cache.get(TENANT, ids[0])
    del requests
    tracemalloc.start()
    try:
        for id_ in ids:
            cached = await cache.get(TENANT, id_)
            assert cached.input["field_0"].endswith("aaa")
            sizes.append(cache.size)
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await cache.aclose()
    assert BUDGET / 2 < max(sizes) <= BUDGET
    # What Python and psycopg keep besides: statements, a batch of rows, tasks.
    assert allocated < BUDGET + 2**20


@pytest.mark.long
async def test_the_account_is_not_below_what_requests_take_in_memory(database: Database) -> None:
    """Small requests, whose own fields weigh more than their input."""
    cache = RequestCache(database, SystemClock(), 64 * 2**20)
    ids: list[str] = []
    for _ in range(20):
        rows = [
            NewRow(request, EncodedInput(request.input)) for request in [new() for _ in range(50)]
        ]
        await insert_requests(database, rows, 60.0)
        ids += [row.request.id for row in rows]
    await cache.get(TENANT, ids[0])
    before = cache.size
    tracemalloc.start()
    try:
        for id_ in ids[1:]:
            await cache.get(TENANT, id_)
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await cache.aclose()
    assert allocated < cache.size - before


async def test_the_account_follows_changes_and_deletions(database: Database) -> None:
    cache = RequestCache(database, SystemClock(), BUDGET)
    request = new(input=prompt(1))
    await insert_requests(database, [NewRow(request, EncodedInput(request.input))], 60.0)
    cached = await cache.get(TENANT, request.id)
    queued = cache.size
    outcome = Outcome(output={"text": "x" * 50_000}, usage=Usage(1.0, 1, 1.0))
    cache.apply_change(request.id, cached.events + 1, state=State.SUCCEEDED, outcome=outcome)
    assert queued + 50_000 < cache.size < queued + 60_000
    await database.rows("DELETE FROM requests")
    cache.invalidate([request.id])
    await asyncio.gather(cache.get(TENANT, request.id), return_exceptions=True)
    assert cache.size == 0
    await cache.aclose()


async def test_requests_that_did_not_change_and_were_not_read_for_a_minute_take_no_memory(
    database: Database,
) -> None:
    clock = FakeClock()
    cache = RequestCache(database, clock, BUDGET)
    old, outdated, waited, recent = requests = [new() for _ in range(4)]
    for request in requests:
        await insert_requests(database, [NewRow(request, EncodedInput(request.input))], 60.0)
    for request in requests[:3]:
        await cache.get(TENANT, request.id)
    cache.invalidate([outdated.id])
    waiting = asyncio.create_task(cache.wait(TENANT, waited.id, 600.0))
    clock.advance(KEPT_S)
    await cache.get(TENANT, recent.id)
    per_request = cache.size // 4
    clock.advance(1.0)
    await cache.refresh_watched()
    assert cache.size == 2 * per_request
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    clock.advance(KEPT_S + 1.0)
    await cache.refresh_watched()
    assert cache.size == 0
    assert (await cache.get(TENANT, old.id)).state is State.QUEUED
    await cache.aclose()


@pytest.mark.long
async def test_with_a_memory_smaller_than_one_request_everything_still_works(
    ingress: Ingress,
) -> None:
    queue = await ingress(replace(LONG_LEASES, request_cache_bytes=1000))
    requests = [await queue.submit(new(input=prompt(n))) for n in range(5)]
    watching = [asyncio.create_task(collect_events(queue, request.id)) for request in requests]
    waiting = [asyncio.create_task(queue.wait(TENANT, request.id, 60.0)) for request in requests]
    for _ in requests:
        granted = await lease(queue)
        assert granted.input["field_1"].endswith("bbb")
        await queue.finish(make_finish(granted.key))
    ended: list[Request] = await asyncio.gather(*waiting)
    assert {request.state for request in ended} == {State.SUCCEEDED}
    assert all(request.outcome and request.outcome.output == {"n": 1} for request in ended)
    for events in await asyncio.gather(*watching):
        states = [data["state"] for _, name, data in events if name == "state"]
        assert (states[0], states[-1]) == ("queued", "succeeded")
    for n, submitted in enumerate(requests):
        stored = await queue.get(TENANT, submitted.id)
        assert (stored.state, stored.input) == (State.SUCCEEDED, prompt(n))
    assert queue.parts.state.requests.size == 0


async def test_late_progress_does_not_make_an_outdated_request_current(
    database: Database, ingress: Ingress
) -> None:
    queue = await ingress(LONG_LEASES)
    request = await queue.submit(new())
    lease_key = (await lease(queue)).key
    cache = RequestCache(database, SystemClock(), BUDGET)
    assert (await cache.get(TENANT, request.id)).state is State.RUNNING
    await queue.hand_back(lease_key, "r1", "draining")
    cache.invalidate([request.id])
    cache.update_progress(lease_key, Progress(Stage.DENOISING, 1, 8))
    assert (await cache.get(TENANT, request.id)).state is State.QUEUED
    await cache.aclose()
