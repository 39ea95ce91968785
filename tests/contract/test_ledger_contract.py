"""Contract of past usage and ended requests: over the fake queue and over PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import Request
from serve_app.domain.usage import EndedRequest, EndedRequestFilter, RequestTotals, UsageTotals
from serve_app.telemetry.clock import SystemClock
from tests.contract.queues import Make
from tests.contract.test_fairness_contract import CALM
from tests.queue.requests import TENANT, failure, lease, make_finish, new

ENDPOINT = "fal-ai/flux/schnell"
OTHER = "fal-ai/flux/dev"
DAY = timedelta(days=1)


async def run_request(queue: Queue, outcome: Outcome | None = None, **changes: object) -> Request:
    request = await queue.submit(new(**changes))
    key = (await lease(queue)).key
    await queue.finish(make_finish(key, outcome))
    return await queue.get(request.tenant, request.id)


def search(**changes: object) -> EndedRequestFilter:
    now = SystemClock().now()
    return replace(EndedRequestFilter(TENANT, ENDPOINT, now - DAY, now + DAY), **changes)


async def ids(queue: Queue, limit: int = 50, **changes: object) -> list[str]:
    return [request.id for request in await queue.ledger.ended_requests(search(**changes), limit)]


def end_of(request: Request) -> datetime:
    assert request.finished_at is not None
    return request.finished_at


async def test_usage_is_summed_between_edges_by_endpoint(queue: Queue) -> None:
    usage = Outcome(output={}, usage=Usage(run_s=1.5, steps=4, units=0.25))
    first = await run_request(queue, usage)
    second = await run_request(queue, usage)
    other = await run_request(queue, usage, endpoint=OTHER)
    await run_request(queue, usage, tenant="bob")
    edges = [end_of(first), end_of(second), end_of(other) + DAY]
    per_request = Usage(1.5, 4, 0.25)
    assert await queue.ledger.usage_totals(TENANT, edges) == [
        UsageTotals(0, ENDPOINT, 1, per_request),
        UsageTotals(1, OTHER, 1, per_request),
        UsageTotals(1, ENDPOINT, 1, per_request),
    ]
    whole = [edges[0], edges[-1]]
    assert await queue.ledger.usage_totals(TENANT, whole, [ENDPOINT]) == [
        UsageTotals(0, ENDPOINT, 2, Usage(3.0, 8, 0.5))
    ]
    assert await queue.ledger.usage_totals(TENANT, [edges[0] - DAY, edges[0]]) == []


async def test_what_was_deleted_is_counted_and_not_listed(queue: Queue) -> None:
    request = await run_request(queue)
    await queue.delete(TENANT, request.id)
    assert await ids(queue) == []
    counted = await queue.ledger.usage_totals(TENANT, [end_of(request), end_of(request) + DAY])
    assert [total.requests for total in counted] == [1]


async def test_ended_requests_are_listed_by_their_end_page_by_page(make: Make) -> None:
    queue = await make(CALM)  # its leases last long enough
    await run_request(queue, tenant="bob")
    late = await queue.submit(new())
    key = (await lease(queue)).key
    early = [await run_request(queue) for _ in range(3)]
    await queue.finish(make_finish(key))
    await run_request(queue, endpoint=OTHER)
    await run_request(queue, tenant="bob")
    await queue.submit(new())  # has not ended
    order = [late.id, *(request.id for request in reversed(early))]
    assert await ids(queue) == order
    page = await queue.ledger.ended_requests(search(), 2)
    last = page[-1]
    assert [request.id for request in page] == order[:2]
    assert await ids(queue, before=(end_of(last), last.id)) == order[2:]


async def test_they_are_found_by_the_time_of_their_end(queue: Queue) -> None:
    first, two = await run_request(queue), await run_request(queue)
    assert await ids(queue, since=end_of(two)) == [two.id]
    assert await ids(queue, until=end_of(two)) == [first.id]


async def test_they_are_found_by_their_id(queue: Queue) -> None:
    first, _ = await run_request(queue), await run_request(queue)
    assert await ids(queue, request_id=first.id) == [first.id]
    assert await ids(queue, request_id=first.id, tenant="bob") == []


async def test_they_are_found_by_who_is_to_blame(queue: Queue) -> None:
    good = await run_request(queue, Outcome(output={"text": "\0 \ud800"}))
    cancelled = await queue.submit(new())
    await queue.cancel(TENANT, cancelled.id)
    broken = await run_request(queue, failure("pipeline_failed"))
    refused = failure("pipeline_failed").failure
    assert refused is not None
    # A message may quote characters that no database accepts.
    at_fault = replace(refused, field="image_url", message="\0 is no image", context={"at": "\0"})
    wrong = await run_request(queue, Outcome(failure=at_fault))
    codes = ["cancelled", "invalid_input"]
    assert await ids(queue, end=EndedRequest.SUCCESS, client_codes=codes) == [good.id]
    assert await ids(queue, end=EndedRequest.CLIENT_ERROR, client_codes=codes) == [
        wrong.id,
        cancelled.id,
    ]
    assert await ids(queue, end=EndedRequest.SERVER_ERROR, client_codes=codes) == [broken.id]
    for end in EndedRequest:
        assert await ids(queue, end=end, client_codes=codes, tenant="bob") == []


async def test_ended_requests_are_measured_between_edges_by_endpoint(queue: Queue) -> None:
    fine = [await run_request(queue) for _ in range(3)]
    await run_request(queue, failure("bad_thing"))
    await run_request(queue, failure())
    cancelled = await queue.submit(new())
    await queue.cancel(TENANT, cancelled.id)
    other = await run_request(queue, endpoint=OTHER)
    await run_request(queue, tenant="bob")
    deleted = await run_request(queue)
    await queue.delete(TENANT, deleted.id)
    edges = [end_of(fine[0]), end_of(fine[1]), end_of(other) + DAY]

    async def measured(*endpoints: str) -> Sequence[RequestTotals]:
        return await queue.ledger.request_totals(
            TENANT, edges, endpoints, shares=(0.0, 0.5, 1.0), client_codes=("bad_thing",)
        )

    samples = await measured(ENDPOINT, OTHER)
    assert [
        (row.bucket, row.endpoint, row.requests, row.successes, row.client_errors)
        for row in samples
    ] == [(0, ENDPOINT, 1, 1, 0), (1, OTHER, 1, 1, 0), (1, ENDPOINT, 5, 2, 1)]
    for sample in samples:
        for values in (sample.durations_s, sample.waits_s):
            assert list(values) == sorted(values)
            assert len(values) == 3
    took_s = (end_of(fine[0]) - (fine[0].started_at or end_of(fine[0]))).total_seconds()
    assert list(samples[0].durations_s) == pytest.approx([took_s] * 3, abs=1e-3)
    assert [row.endpoint for row in await measured(OTHER)] == [OTHER]


async def test_what_never_started_took_no_time(queue: Queue) -> None:
    cancelled = await queue.submit(new())
    await queue.cancel(TENANT, cancelled.id)
    at = end_of(await queue.get(TENANT, cancelled.id))
    (sample,) = await queue.ledger.request_totals(
        TENANT, [at, at + DAY], [ENDPOINT], shares=(0.5,), client_codes=()
    )
    assert (sample.requests, sample.successes) == (1, 0)
    assert (list(sample.durations_s), list(sample.waits_s)) == ([], [])
