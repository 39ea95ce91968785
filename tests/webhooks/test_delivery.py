"""Delivery worker over real sockets and a fake outbox: a failed receiver delays no other."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from serve_app.domain.errors import DatabaseUnavailable, RequestNotFound, StorageUnavailable
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.webhook import (
    ClaimedDelivery,
    DeliveryState,
    ReceiverResponse,
    Webhook,
    WebhookBacklog,
)
from serve_app.queue.store.config import QueueLimits
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.logs import request_id
from serve_app.webhooks import delivery
from serve_app.webhooks.circuit_breaker import MAX_UNPROVEN_PER_TENANT, PROVEN
from serve_app.webhooks.delivery import DeliveryWorker, RetryRules
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import Signer
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.fakes.terms import FakeTerms
from tests.queue.requests import TENANT, new
from tests.webhooks.receiver import Receiver, Reply, always, each

CLOCK = SystemClock()


@dataclass
class Counted:
    results: Counter[str] = field(default_factory=Counter[str])
    backlog: WebhookBacklog | None = None

    def webhook(self, result: str) -> None:
        self.results[result] += 1

    def webhooks(self, backlog: WebhookBacklog) -> None:
        self.backlog = backlog

    def webhook_called(self, result: str, elapsed_s: float) -> None:
        del result, elapsed_s

    def breakers(self, receivers: int, tenants: int) -> None:
        del receivers, tenants


async def plain(claimed: ClaimedDelivery) -> bytes:
    return claimed.request_id.encode()


@dataclass
class Post:
    queue: FakeQueue
    tally: Counted
    worker: DeliveryWorker

    async def make_ended_request(self, url: str, tenant: str = TENANT) -> str:
        request = await self.queue.submit(new(tenant=tenant, webhook=Webhook(url, "")))
        await self.queue.cancel(tenant, request.id)
        return request.id

    async def until(self, done: Callable[[], bool], within_s: float = 20.0) -> None:
        async with asyncio.timeout(within_s):
            while not done():  # noqa: ASYNC110 - any of many tasks makes it so
                await asyncio.sleep(0.01)


@asynccontextmanager
async def post(
    compose: Callable[..., object] = plain, waits_s: tuple[float, ...] = (0.0,) * 9
) -> AsyncIterator[Post]:
    queue = FakeQueue(CLOCK, FakeTerms(), QueueLimits(), FakeLiveness())
    sender = Sender(
        NameResolver(), Signer(FakeSigningSeeds(CLOCK), CLOCK), CLOCK, allow_private=True
    )
    await sender.start()
    tally = Counted()
    rules = RetryRules(waits_s, give_up_s=3600.0, check_interval_s=0.02)
    worker = DeliveryWorker(queue.outbox, compose, sender, CLOCK, rules, tally)  # type: ignore[arg-type]
    try:
        yield Post(queue, tally, worker)
    finally:
        await worker.aclose()
        await sender.aclose()


async def test_each_is_delivered_once() -> None:
    async with Receiver() as receiver, post() as here:
        ids = [await here.make_ended_request(receiver.url()) for _ in range(100)]
        here.worker.start()
        await here.until(lambda: here.tally.results["delivered"] == 100)
        assert sorted(call.body.decode() for call in receiver.received) == sorted(ids)
        assert receiver.most_at_once <= PROVEN


async def test_receivers_that_hang_or_are_down_delay_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_S", 600.0)
    async with AsyncExitStack() as stack, post() as here:
        hanging = [
            await stack.enter_async_context(Receiver(always(Reply(hangs=True)))) for _ in range(10)
        ]
        down = Receiver()
        await down.start()
        await down.aclose()
        good = await stack.enter_async_context(Receiver())
        for receiver in hanging:
            for _ in range(10):
                await here.make_ended_request(receiver.url())
        for _ in range(10):
            await here.make_ended_request(down.url(), tenant="cleo")
        for _ in range(20):
            await here.make_ended_request(good.url(), tenant="bob")
        here.worker.start()
        await here.until(lambda: here.tally.results["delivered"] == 20, within_s=60)
        # While the breaker of the failed receiver is open, its waiting webhooks use up no tries.
        await here.until(lambda: here.tally.results["failed"] >= 5)
        await asyncio.sleep(0.3)
        assert here.tally.results["failed"] <= 7
        assert sum(len(receiver.received) for receiver in hanging) <= MAX_UNPROVEN_PER_TENANT


async def test_two_tenants_with_many_receivers_that_hang_delay_no_third(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_S", 600.0)
    async with AsyncExitStack() as stack, post() as here:
        hanging = [
            await stack.enter_async_context(Receiver(always(Reply(hangs=True)))) for _ in range(90)
        ]
        good = await stack.enter_async_context(Receiver())
        for receiver in hanging:
            for tenant in ("ann", "bob"):
                await here.make_ended_request(receiver.url(), tenant)
        here.worker.start()
        in_flight = 2 * MAX_UNPROVEN_PER_TENANT
        await here.until(lambda: sum(len(host.received) for host in hanging) >= in_flight)
        await here.make_ended_request(good.url(), tenant="cleo")
        await good.until(1, within_s=60)
        assert sum(len(host.received) for host in hanging) == in_flight


async def test_a_receiver_that_comes_back_gets_everything() -> None:
    async with post(waits_s=(0.05,) * 200) as here:
        receiver = Receiver()
        await receiver.start()
        await receiver.aclose()
        ids = {await here.make_ended_request(receiver.url()) for _ in range(3)}
        here.worker.start()
        await here.until(lambda: here.tally.results["failed"] >= 2)
        await receiver.start()
        await receiver.until(3)
        assert {call.body.decode() for call in receiver.received} == ids
        await here.until(lambda: here.tally.results["delivered"] == 3)
        await receiver.aclose()


async def test_what_is_under_way_when_it_closes_is_due_again_without_a_try() -> None:
    async with Receiver(each(Reply(hangs=True), Reply())) as receiver, post() as here:
        id_ = await here.make_ended_request(receiver.url())
        here.worker.start()
        await receiver.until(1)
        await here.worker.aclose()
        delivery = await here.queue.outbox.get(TENANT, id_)
        assert (delivery.state, delivery.tries) == (DeliveryState.PENDING, 0)
        here.worker.start()
        await here.until(lambda: here.tally.results["delivered"] == 1)


async def test_a_body_that_cannot_be_made_now_waits_and_holds_up_no_other() -> None:
    refused: list[str] = []

    async def compose(claimed: ClaimedDelivery) -> bytes:
        if "/away" in claimed.url:
            refused.append(claimed.request_id)
            raise StorageUnavailable("Storage is away.")
        if "/gone" in claimed.url:
            raise RequestNotFound("It is gone.")
        if "/defect" in claimed.url:
            raise KeyError("no such field")
        return b"{}"

    async with Receiver() as receiver, post(compose) as here:
        away = await here.make_ended_request(receiver.url("/away"))
        for path in ("/gone", "/defect", "/good"):
            await here.make_ended_request(receiver.url(path))
        here.worker.start()
        await receiver.until(1)
        await here.until(lambda: refused == [away])
        assert [call.target for call in receiver.received] == ["/good"]
        assert (await here.queue.outbox.get(TENANT, away)).tries == 0


async def test_memory_holds_only_what_is_on_its_way() -> None:
    request_ids: set[str] = set()

    async def compose(claimed: ClaimedDelivery) -> bytes:
        request_ids.add(claimed.request_id)
        return b"{}"

    async with AsyncExitStack() as stack, post(compose) as here:
        hosts = [
            await stack.enter_async_context(Receiver(always(Reply(hangs=True)))) for _ in range(40)
        ]
        for receiver in hosts:
            for tenant in ("ann", "bob", "cleo"):
                for _ in range(4):
                    await here.make_ended_request(receiver.url(), tenant)
        here.worker.start()
        most = 3 * MAX_UNPROVEN_PER_TENANT
        await here.until(lambda: sum(len(host.received) for host in hosts) >= most)
        await asyncio.sleep(0.2)
        assert len(request_ids) <= most


async def test_what_the_receiver_took_is_written_down_when_the_database_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "DATABASE_RETRY_S", 0.02)
    async with Receiver() as receiver, post() as here:
        outbox, attempts = here.queue.outbox, 0
        delivered = outbox.record_success

        async def away(claimed: ClaimedDelivery, answer: ReceiverResponse) -> bool:
            nonlocal attempts
            attempts += 1
            if attempts < 4:
                raise DatabaseUnavailable("PostgreSQL is away.")
            return await delivered(claimed, answer)

        outbox.record_success = away  # type: ignore[method-assign]
        await here.make_ended_request(receiver.url())
        here.worker.start()
        await here.until(lambda: here.tally.results["delivered"] == 1)
        assert len(receiver.received) == 1


async def test_what_is_logged_of_a_delivery_has_the_id_of_its_request() -> None:
    logged: list[tuple[str, str | None]] = []
    log = logging.getLogger(delivery.__name__)
    listener = logging.Handler()
    listener.emit = lambda record: logged.append((record.getMessage(), request_id.get()))
    log.addHandler(listener)
    try:
        async with Receiver(always(Reply(500))) as receiver, post(waits_s=()) as here:
            ids = {await here.make_ended_request(receiver.url()) for _ in range(3)}
            here.worker.start()
            await here.until(lambda: here.tally.results["dead"] == len(ids))
    finally:
        log.removeHandler(listener)
    assert {about for _, about in logged} == ids
    assert all(about and about in message for message, about in logged)


async def test_the_backlog_is_counted() -> None:
    async with post() as here:
        receiver = Receiver()
        await receiver.start()
        await receiver.aclose()
        await here.make_ended_request(receiver.url())
        here.worker.start()
        await here.until(lambda: here.tally.backlog is not None)
        assert here.tally.backlog is not None
        assert here.tally.backlog.pending == 1
