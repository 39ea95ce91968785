"""Spans that the queue of an ingress process records, over PostgreSQL and an OTLP collector."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from serve_app.domain.lease import Lease
from serve_app.domain.request import NewRequest
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.trace_context import of_attempt
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES
from tests.queue.requests import ask, lease, new
from tests.telemetry.collector import Traced, tracing_to_collector

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
RECORDED, NOT_RECORDED = (f"00-{TRACE}-{SPAN}-{flag} a=1" for flag in ("01", "00"))


@pytest.fixture
async def tracing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    async with tracing_to_collector(monkeypatch, names_tenants=True) as traced:
        yield traced


@pytest.fixture
async def queue(
    database: Database, terms: FakeTerms, liveness: FakeLiveness, tracing: Traced
) -> AsyncIterator[PostgresQueue]:
    postgres = assemble(database, SystemClock(), terms, LONG_LEASES, liveness, "ingress")
    postgres.record_spans(tracing.tracing)
    async with AsyncExitStack() as stack:
        await postgres.start()
        stack.push_async_callback(postgres.aclose)
        yield postgres


async def lease_request(queue: PostgresQueue, request: NewRequest, replica: str) -> Lease:
    while True:
        for granted in (await queue.ask(ask(1, replica=replica))).leases:
            assert granted.request_id == request.id
            return granted


async def test_the_attempt_after_a_crash_is_in_the_trace_of_the_first(
    queue: PostgresQueue, liveness: FakeLiveness, tracing: Traced
) -> None:
    request = new(trace=RECORDED)
    await queue.submit(request)
    first = await lease(queue, "one")
    liveness.buried.add("actor-one")
    second = await lease_request(queue, request, "two")
    assert (second.attempt, first.trace, second.trace) == (2, RECORDED, RECORDED)
    await tracing.collector.until("wait", "attempt")
    wait, lost = tracing.collector.find_span("wait"), tracing.collector.find_span("attempt")
    assert {(span.trace_id, span.parent_id, span.state) for span in (wait, lost)} == {
        (TRACE, SPAN, "a=1")
    }
    assert lost.span_id == of_attempt(first.trace, first.key)[36:52]
    assert (lost.failed, lost.attributes["error.type"]) == (True, "lost")
    assert lost.attributes["darkroom.replica"] == "one"
    assert wait.attributes["darkroom.tenant"] == request.tenant
    assert wait.ended - wait.began >= 0


async def test_a_request_whose_client_records_nothing_has_no_spans(
    queue: PostgresQueue, tracing: Traced
) -> None:
    quiet, recorded = new(trace=NOT_RECORDED), new(trace=RECORDED.replace(TRACE, "a" * 32))
    for request in (quiet, recorded):
        await queue.submit(request)
        trace = (await lease_request(queue, request, "one")).trace
        assert trace == (recorded.trace if request is recorded else "")
    spans = await tracing.collector.until("wait")
    assert {span.trace_id for span in spans} == {"a" * 32}
