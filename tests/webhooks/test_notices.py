"""Webhooks about batches and budgets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from serve_app.domain.name_resolution import NameResolver
from serve_app.jobs.worker import JobWorker
from serve_app.telemetry.clock import SystemClock
from serve_app.webhooks.notices import NoticeDelivery
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import Signer
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import FakeJobs
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.webhooks.receiver import Receiver, Reply, always

CLOCK = SystemClock()
BODY = {"type": "budget.warning", "tenant": "ann", "threshold": 0.8, "used": "8.10"}


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    signer = Signer(FakeSigningSeeds(CLOCK), CLOCK)
    sender = Sender(NameResolver(), signer, CLOCK, allow_private=True)
    await sender.start()
    yield sender
    await sender.aclose()


def put(jobs: FakeJobs, url: str) -> None:
    jobs.put("notice", "ann:1", "ann", {"url": url, "about": "ann:1", "body": BODY})


async def test_a_notice_is_a_signed_call(sender: Sender) -> None:
    jobs = FakeJobs(CLOCK)
    async with Receiver() as receiver:
        put(jobs, receiver.url())
        await JobWorker(jobs, [NoticeDelivery(sender, (5.0,))]).run_due()
        (received,) = receiver.received
    assert json.loads(received.body) == BODY
    assert "x-fal-webhook-signature" in received.headers
    assert jobs.rows == {}


async def test_a_call_that_fails_is_repeated_with_the_same_body_until_it_is_given_up(
    sender: Sender,
) -> None:
    clock = FakeClock()
    jobs = FakeJobs(clock)
    async with Receiver(always(Reply(500))) as receiver:
        worker = JobWorker(jobs, [NoticeDelivery(sender, (5.0, 15.0))])
        put(jobs, receiver.url())
        row = jobs.rows["notice", "ann:1"]
        for wait_s in (5.0, 15.0):
            await worker.run_due()
            assert (row.due_at - clock.now()).total_seconds() == wait_s
            clock.advance(wait_s)
        await worker.run_due()
        assert len({call.body for call in receiver.received}) == 1
        assert len(receiver.received) == 3
    assert row.given_up_at is not None
    assert "not delivered" in row.error


async def test_a_call_that_the_receiver_refuses_for_good_is_given_up(sender: Sender) -> None:
    jobs = FakeJobs(CLOCK)
    async with Receiver(always(Reply(410))) as receiver:
        put(jobs, receiver.url())
        await JobWorker(jobs, [NoticeDelivery(sender, (5.0, 15.0))]).run_due()
    assert jobs.rows["notice", "ann:1"].given_up_at is not None
