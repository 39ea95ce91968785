"""Log lines of the queue carry the id of the request they are about, whatever task wrote them, and
the logs of requests have a size."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue.store.rows import known_id
from serve_app.telemetry.logs import log_context, request_id
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, QUICK, Ingress
from tests.queue.requests import TENANT, ask, lease, new, report

Said = list[tuple[str, str | None]]


@pytest.fixture
def log_lines() -> Iterator[Said]:
    lines: Said = []
    log, listener = logging.getLogger("serve_app.queue"), logging.Handler()
    listener.emit = lambda record: lines.append((record.getMessage(), request_id.get()))
    log.addHandler(listener)
    yield lines
    log.removeHandler(listener)


async def test_a_lease_that_cannot_be_made_is_logged_for_its_request_and_for_no_other(
    ingress: Ingress, terms: FakeTerms, log_lines: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    queue = await ingress()
    monkeypatch.setattr(terms, "tickets", broken)
    with log_context("of another"):  # this task begins to lease the requests it finds
        request = await queue.submit(new())
        while not (await queue.get(TENANT, request.id)).state.final:
            await queue.ask(ask(1))
    named = [whose for line, whose in log_lines if line.startswith("The lease of request")]
    assert set(named) == {request.id}


async def test_a_lease_that_ends_by_death_is_logged_for_its_request(
    ingress: Ingress, liveness: FakeLiveness, log_lines: Said
) -> None:
    queue = await ingress(LONG_LEASES)
    requests = [await queue.submit(new()) for _ in range(2)]
    leases = (await queue.ask(ask(2))).leases
    await queue.report(report(*(granted.key for granted in leases)))
    liveness.buried.add("actor-r1")
    for request in requests:
        while (await queue.wait_for_change(TENANT, request.id, 0.1)).state is State.RUNNING:
            pass
    named = {whose for line, whose in log_lines if "actor-r1" in line or " is gone " in line}
    assert named == {submitted.id for submitted in requests}


async def test_a_lease_that_runs_out_is_logged_for_its_request(
    ingress: Ingress, log_lines: Said
) -> None:
    queue = await ingress(QUICK)
    request = await queue.submit(new())
    await lease(queue)
    while not any("lease ran out" in line for line, _ in log_lines):
        await queue.wait(TENANT, request.id, 0.05)
    assert {whose for line, whose in log_lines if "lease ran out" in line} == {request.id}


async def test_the_log_of_a_request_has_a_size(ingress: Ingress, database: Database) -> None:
    """Whatever a replica sends: a version before this one, or a provider, may cut no lines."""
    queue = await ingress(LONG_LEASES)
    request = await queue.submit(new())
    for _ in range(12):
        await queue.log(request.id, *[("INFO", "x" * 10**5)] * 100)
    await queue.log(request.id, ("INFO", "more"))
    # Not read as lines: twelve megabytes take longer than a statement may on a busy machine.
    stored = "SELECT sequence, length(message) FROM events WHERE request_id = %(id)s ORDER BY 1"
    rows = await database.rows(stored, {"id": known_id(request.id)})
    assert {length for _, length in rows} == {10_000}
    assert sum(length for _, length in rows) < 1.2e7
    sequences = [sequence for sequence, _ in rows]
    assert sequences == sorted(set(sequences))
    (last,) = await queue.lines(TENANT, request.id, after=sequences[-2])
    assert (last.sequence, len(last.message)) == (sequences[-1], 10_000)
