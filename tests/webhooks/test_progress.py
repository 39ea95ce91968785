"""Progress webhooks over real sockets and a fake queue."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import Lease
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Request
from serve_app.domain.webhook import ClaimedDelivery, ReceiverResponse, Webhook, WebhookBacklog
from serve_app.queue.store.config import QueueLimits
from serve_app.telemetry.clock import SystemClock
from serve_app.webhooks import progress as module
from serve_app.webhooks.progress import ProgressNotifier, ProgressState
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import SignedMessage, Signer
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.fakes.terms import FakeTerms
from tests.queue.requests import TENANT, lease, make_finish, new, report
from tests.webhooks.receiver import Receiver, Reply, always, each

CLOCK = SystemClock()


@dataclass
class Counted:
    results: Counter[str] = field(default_factory=Counter[str])

    def webhook(self, result: str) -> None:
        self.results[result] += 1

    def webhooks(self, backlog: WebhookBacklog) -> None: ...


class CountingSender(Sender):
    """Receiver that counts the calls in progress."""

    under_way = 0

    async def post(self, url: str, parcel: SignedMessage, timeout_s: float) -> ReceiverResponse:
        self.under_way += 1
        try:
            return await super().post(url, parcel, timeout_s)
        finally:
            self.under_way -= 1


class Queue(FakeQueue):
    """Fake queue that can be unavailable."""

    away = False
    refused = 0

    async def get(self, tenant: str, request_id: str) -> Request:
        if self.away:
            self.refused += 1
            raise DatabaseUnavailable("The database is away.")
        return await super().get(tenant, request_id)


async def step(request: Request) -> bytes | None:
    """Body for each new step."""
    return str(request.progress.step).encode() if request.progress else None


async def state(request: Request) -> bytes | None:
    return request.state.value.encode()


@dataclass
class Place:
    queue: Queue
    sender: CountingSender
    tally: Counted
    herald: ProgressNotifier

    async def running(self, tenant: str = TENANT) -> tuple[Request, Lease]:
        request = await self.queue.submit(new(tenant=tenant))
        return request, await lease(self.queue)

    async def progress(self, leased: Lease, step: int) -> None:
        now = Progress(Stage.DENOISING, step, 100)
        await self.queue.report(report(leased.key, progress=[(leased.key, now)]))

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not is_so():  # noqa: ASYNC110 - any of many tasks makes it so
                await asyncio.sleep(0.01)


@asynccontextmanager
async def place() -> AsyncGenerator[Place]:
    queue = Queue(CLOCK, FakeTerms(), QueueLimits(), FakeLiveness())
    signer = Signer(FakeSigningSeeds(CLOCK), CLOCK)
    sender, tally = CountingSender(NameResolver(), signer, CLOCK, allow_private=True), Counted()
    await sender.start()
    herald = ProgressNotifier(queue, sender, CLOCK, tally)
    try:
        yield Place(queue, sender, tally, herald)
    finally:
        await herald.aclose()
        await sender.aclose()


def make_delivery(request: Request, webhook: Webhook) -> ClaimedDelivery:
    url, origin = webhook.url, webhook.origin
    return ClaimedDelivery("d", 1, request.id, request.tenant, "host", url, origin, 0, None)


async def test_calls_come_in_order_one_at_a_time_and_report_the_newest() -> None:
    async with Receiver() as receiver, place() as here:
        request, leased = await here.running()
        here.herald.follow(request, ProgressState(receiver.url(), step, every_s=0.05))
        began = time.monotonic()
        for number in range(1, 61):
            await here.progress(leased, number)
            await asyncio.sleep(0.01)
        await here.until(lambda: bool(receiver.received) and receiver.received[-1].body == b"60")
        reported = [int(call.body) for call in receiver.received]
        assert reported == sorted(set(reported))
        assert 2 <= len(reported) <= 2 + (time.monotonic() - began) / 0.05
        assert receiver.most_at_once == 1


async def test_a_call_that_is_under_way_is_given_up_when_the_request_ends() -> None:
    async with Receiver(always(Reply(hangs=True))) as receiver, place() as here:
        request, leased = await here.running()
        here.herald.follow(request, ProgressState(receiver.url(), state, every_s=0.0))
        await receiver.until(1)
        await here.queue.finish(make_finish(leased.key))
        await here.until(lambda: not here.sender.under_way)
        assert len(receiver.received) == 1


@pytest.mark.parametrize("own", [True, False])
async def test_nothing_is_under_way_once_the_courier_has_the_word(own: bool) -> None:
    """This holds even if another process delivers the final webhook."""
    async with Receiver(always(Reply(hangs=True))) as receiver, place() as here:
        request, leased = await here.running()
        webhook = Webhook(receiver.url(), here.herald.mark_origin("http://here#replicate"))
        here.herald.follow(request, ProgressState(webhook.url, state, every_s=0.0))
        await receiver.until(1)
        await here.queue.finish(make_finish(leased.key))
        other = ProgressNotifier(here.queue, here.sender, CLOCK, here.tally)
        plain = await (here.herald if own else other).wait_until_silent(
            make_delivery(request, webhook)
        )
        assert plain.origin == "http://here#replicate"
        assert not here.sender.under_way


async def test_an_origin_without_a_mark_is_left_as_it_is() -> None:
    async with place() as here:
        request, _ = await here.running()
        unmarked = make_delivery(request, Webhook("http://x.example", "http://here#replicate"))
        assert await here.herald.wait_until_silent(unmarked) is unmarked


async def test_a_request_that_is_followed_to_its_end_sends_that_too_and_nothing_after_it() -> None:
    async with Receiver() as receiver, place() as here:
        request, leased = await here.running()
        here.herald.follow(
            request, ProgressState(receiver.url(), state, every_s=0.0, to_the_end=True)
        )
        await receiver.until(1)
        await here.queue.finish(make_finish(leased.key))
        ended, second = await here.running()
        await here.queue.finish(make_finish(second.key))
        await receiver.until(2)
        ended = await here.queue.get(TENANT, ended.id)
        here.herald.follow(
            ended, ProgressState(receiver.url(), step, every_s=0.0)
        )  # ignored, as `to_the_end` is off
        here.herald.follow(
            ended, ProgressState(receiver.url(), state, every_s=0.0, to_the_end=True)
        )
        await receiver.until(3)
        assert [call.body for call in receiver.received] == [b"running", b"succeeded", b"succeeded"]


async def test_what_is_refused_is_lost_and_the_next_is_reported() -> None:
    async with Receiver(each(Reply(500), Reply())) as receiver, place() as here:
        request, leased = await here.running()
        here.herald.follow(request, ProgressState(receiver.url(), step, every_s=0.0))
        await here.progress(leased, 1)
        await here.until(lambda: here.tally.results["lost"] == 1)
        await here.progress(leased, 2)
        await here.until(lambda: here.tally.results["told"] == 1)
        assert [call.body for call in receiver.received] == [b"1", b"2"]


async def test_who_does_not_answer_holds_up_no_other_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PER_TENANT", 2)
    async with (
        Receiver(always(Reply(hangs=True))) as hanging,
        Receiver() as good,
        place() as here,
    ):
        for _ in range(5):
            request, _ = await here.running()
            here.herald.follow(request, ProgressState(hanging.url(), state, every_s=0.0))
        await hanging.until(2)
        request, _ = await here.running(tenant="bob")
        here.herald.follow(request, ProgressState(good.url(), state, every_s=0.0))
        await good.until(1)
        assert len(hanging.received) == 2


async def test_a_database_that_was_away_is_no_end() -> None:
    async with Receiver() as receiver, place() as here:
        request, leased = await here.running()
        here.queue.away = True
        here.herald.follow(request, ProgressState(receiver.url(), step, every_s=0.0))
        await here.until(lambda: here.queue.refused > 0)
        await here.progress(leased, 1)
        here.queue.away = False
        await receiver.until(1)
        assert receiver.received[0].body == b"1"


async def test_a_request_that_is_deleted_is_reported_no_more() -> None:
    async with Receiver() as receiver, place() as here:
        request, leased = await here.running()
        await here.queue.finish(make_finish(leased.key))
        await here.queue.delete(TENANT, request.id)
        here.herald.follow(
            request, ProgressState(receiver.url(), state, every_s=0.0, to_the_end=True)
        )
        await here.herald.aclose()
        assert not receiver.received
