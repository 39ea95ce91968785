"""Previews of running requests, in PostgreSQL and in the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from serve_app.domain.errors import NotFound, RequestNotFound
from serve_app.domain.lease import LeaseKey, Report, ReportReply
from serve_app.domain.ports import Queue
from serve_app.domain.progress import Preview, Progress, Stage
from serve_app.domain.request import State
from serve_app.queue.heartbeat import UNFOLLOWED_REPORT_S
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, lease, make_finish, new

FIRST = Preview(2, b"\xff\xd8\x00 the first")
SECOND = Preview(3, b"\xff\xd8\x00 the second")


@pytest.fixture(params=["fake", "postgres"])
async def queue(
    request: pytest.FixtureRequest, terms: FakeTerms, liveness: FakeLiveness
) -> AsyncIterator[Queue]:
    if request.param == "fake":
        yield FakeQueue(SystemClock(), terms, LONG_LEASES, liveness)
        return
    ingress = Ingress(request.getfixturevalue("conninfo"), terms, liveness)
    yield await ingress()
    await ingress.aclose()


async def report_step(
    queue: Queue, lease_key: LeaseKey, step: int, preview: Preview | None = None
) -> ReportReply:
    progress = Progress(Stage.DENOISING, step, 8, rate=2.0)
    previews = () if preview is None else ((lease_key, preview),)
    return await queue.report(Report("r1", (lease_key,), ((lease_key, progress),), previews))


async def running(queue: Queue, **changes: bool) -> LeaseKey:
    await queue.submit(new(**changes))
    return (await lease(queue)).key


async def test_the_newest_preview_is_handed_out(queue: Queue) -> None:
    key = await running(queue)
    await report_step(queue, key, 1)
    assert await queue.preview(TENANT, key.request_id) is None
    await report_step(queue, key, 2, FIRST)
    assert await queue.preview(TENANT, key.request_id) == FIRST
    await report_step(queue, key, 3, SECOND)
    await report_step(queue, key, 4)
    assert await queue.preview(TENANT, key.request_id) == SECOND


async def test_a_request_shows_the_step_of_its_preview_and_its_rate(queue: Queue) -> None:
    key = await running(queue)
    await report_step(queue, key, 2)
    seen = await queue.get(TENANT, key.request_id)
    assert seen.preview_step == 0
    await report_step(queue, key, 2, FIRST)
    shown = await queue.wait_for_change(TENANT, key.request_id, 5.0, since=seen)
    assert shown.preview_step == 2
    assert shown.progress is not None
    assert (shown.progress.rate, shown.progress.left_s) == (2.0, 3.0)


async def test_replicas_are_notified_of_what_somebody_looks_at(queue: Queue) -> None:
    key, other = await running(queue), await running(queue)
    assert (await report_step(queue, key, 1)).watched == ()
    await report_step(queue, other, 1)
    await queue.preview(TENANT, key.request_id)
    assert (await report_step(queue, key, 2)).watched == (key,)
    assert (await report_step(queue, other, 2)).watched == ()


async def test_replicas_report_less_often_about_what_nobody_follows(queue: Queue) -> None:
    key, other = await running(queue), await running(queue)
    assert (await report_step(queue, key, 1)).next_in_s == UNFOLLOWED_REPORT_S
    waiting = asyncio.create_task(queue.wait(TENANT, key.request_id, 30.0))
    await asyncio.sleep(0.05)
    assert (await report_step(queue, key, 2)).next_in_s == UNFOLLOWED_REPORT_S  # only for its end
    await queue.get(TENANT, key.request_id)
    assert (await report_step(queue, key, 3)).next_in_s == 0.0
    assert (await report_step(queue, other, 3)).next_in_s == UNFOLLOWED_REPORT_S
    following = asyncio.create_task(queue.wait_for_change(TENANT, other.request_id, 30.0))
    await asyncio.sleep(0.05)
    assert (await report_step(queue, other, 3)).next_in_s == 0.0
    assert (await queue.report(Report("r1", (key, other)))).next_in_s == 0.0
    for attempt in (key, other):
        await queue.finish(make_finish(attempt))
    assert (await waiting).state is (await following).state is State.SUCCEEDED


async def test_without_previews_no_replica_is_notified_and_none_is_handed_out(queue: Queue) -> None:
    key = await running(queue, previews=False)
    await report_step(queue, key, 1)
    with pytest.raises(NotFound, match="without previews"):
        await queue.preview(TENANT, key.request_id)
    assert (await report_step(queue, key, 2)).watched == ()
    assert (await queue.get(TENANT, key.request_id)).previews is False


async def test_another_tenant_s_preview_is_not_found(queue: Queue) -> None:
    key = await running(queue)
    await report_step(queue, key, 2, FIRST)
    with pytest.raises(RequestNotFound):
        await queue.preview("bob", key.request_id)
    assert (await report_step(queue, key, 3)).watched == ()


async def test_a_preview_ends_with_its_attempt(queue: Queue) -> None:
    key = await running(queue)
    await report_step(queue, key, 2, FIRST)
    await queue.hand_back(key, "r1", "draining")
    assert await queue.preview(TENANT, key.request_id) is None
    again = (await lease(queue)).key
    await report_step(queue, again, 0)
    assert await queue.preview(TENANT, key.request_id) is None
    assert (await queue.get(TENANT, key.request_id)).preview_step == 0
    await report_step(queue, again, 2, SECOND)
    await report_step(queue, key, 4, FIRST)  # a late report of the previous attempt
    assert await queue.preview(TENANT, key.request_id) == SECOND
    await queue.finish(make_finish(again))
    assert (await queue.get(TENANT, key.request_id)).preview_step == 0
    assert await queue.preview(TENANT, key.request_id) is None
