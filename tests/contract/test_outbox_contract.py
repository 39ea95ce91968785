"""Contract of due webhook deliveries: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import NotFound, RequestActive, RequestNotFound
from serve_app.domain.lease import Finish
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.request import CancelVerdict, State
from serve_app.domain.webhook import (
    ClaimedDelivery,
    DeliveryChannel,
    DeliveryState,
    Outbox,
    ReceiverResponse,
    Webhook,
)
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from tests.contract.queues import Make
from tests.contract.waiting import eventually
from tests.fakes.queue import FakeQueue
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new

URL = "https://receiver.example/hook?a=b"
HOST = "receiver.example"
ORIGIN = "http://darkroom.example"
CHANNEL = DeliveryChannel(TENANT, HOST)
FINE = ReceiverResponse(0.1, 200)
BAD = ReceiverResponse(0.2, 500, "It answered 500.")


@dataclass
class House:
    queue: Queue
    outbox: Outbox

    async def run_request(self, url: str = URL, **changes: Any) -> str:
        """Id of a request that has succeeded."""
        request = await self.queue.submit(new(**{"webhook": Webhook(url, ORIGIN), **changes}))
        key = (await lease(self.queue)).key
        await self.queue.finish(make_finish(key))
        return request.id

    async def claim(
        self, most: int = 8, channel: DeliveryChannel = CHANNEL
    ) -> list[ClaimedDelivery]:
        return [*await self.outbox.claim({channel: most})]


def _outbox_of(queue: Queue, first_s: float, later_s: float) -> Outbox:
    if isinstance(queue, PostgresQueue):
        return PostgresOutbox(queue._database, first_s, later_s)
    assert isinstance(queue, FakeQueue)
    queue.outbox.first_claim_s, queue.outbox.later_claim_s = first_s, later_s
    return queue.outbox


@pytest.fixture
async def house(make: Make) -> House:
    queue = await make()
    return House(queue, _outbox_of(queue, 40.0, 150.0))


@pytest.fixture
async def forgetful(make: Make) -> House:
    """House whose claims expire after a moment."""
    queue = await make()
    return House(queue, _outbox_of(queue, 0.1, 0.1))


async def _finished(queue: Queue, outcome: Outcome) -> None:
    key = (await lease(queue)).key
    await queue.finish(Finish(key, "r1", outcome))


ENDINGS: dict[str, Callable[[Queue, str], Awaitable[object]]] = {
    "succeeded": lambda queue, _: _finished(queue, Outcome(output={"n": 1})),
    "failed": lambda queue, _: _finished(queue, failure()),
    "cancelled": lambda queue, id_: queue.cancel(TENANT, id_),
    "failed by hand": lambda queue, id_: queue.operations.fail(id_, Actor("key"), "Too big."),
}


@pytest.mark.parametrize("how", ENDINGS)
async def test_every_end_writes_one_delivery(house: House, how: str) -> None:
    request = await house.queue.submit(new(webhook=Webhook(URL, ORIGIN)))
    assert (await house.outbox.get(TENANT, request.id)).state is DeliveryState.AWAITED
    assert await house.claim() == []
    await ENDINGS[how](house.queue, request.id)
    (claimed,) = await house.claim()
    assert (claimed.request_id, claimed.url, claimed.origin) == (request.id, URL, ORIGIN)
    assert (claimed.channel, claimed.tries, claimed.body) == (CHANNEL, 0, None)
    assert await house.claim() == []


async def test_a_cancel_of_what_runs_and_an_expiry_write_one_too(house: House) -> None:
    running = await house.queue.submit(new(webhook=Webhook(URL, ORIGIN)))
    key = (await lease(house.queue)).key
    assert await house.queue.cancel(TENANT, running.id) is CancelVerdict.REQUESTED
    cancelled = Outcome(failure=Failure("cancelled", "Cancelled.", retryable=False))
    await house.queue.finish(Finish(key, "r1", cancelled))
    late = await house.queue.submit(new(start_within_s=0.01, webhook=Webhook(URL, ORIGIN)))
    assert (await house.queue.wait(TENANT, late.id, 60.0)).state is State.EXPIRED
    assert {delivery.request_id for delivery in await house.claim()} == {running.id, late.id}


async def test_an_outcome_that_is_reused_is_sent_as_well(house: House) -> None:
    await house.run_request(reuse_digest=b"same", webhook=None)
    again = await house.queue.submit(new(reuse_digest=b"same", webhook=Webhook(URL, ORIGIN)))
    assert again.state is State.SUCCEEDED
    assert [delivery.request_id for delivery in await house.claim()] == [again.id]


async def test_a_request_without_a_webhook_has_none(house: House) -> None:
    request = await house.queue.submit(new())
    await _finished(house.queue, Outcome(output={}))
    assert await house.outbox.channels(None, 10) == []
    with pytest.raises(NotFound, match="without a webhook"):
        await house.outbox.get(TENANT, request.id)
    assert await house.outbox.page(TENANT) == []


async def test_a_delivery_is_claimed_by_one_of_many(house: House) -> None:
    ids = {await house.run_request() for _ in range(12)}
    claims = await asyncio.gather(*(house.claim(2) for _ in range(12)))
    claimed = [delivery.request_id for some in claims for delivery in some]
    assert len(claimed) == len(set(claimed))
    rest = await house.claim(8) + await house.claim(8)
    assert {*claimed, *(delivery.request_id for delivery in rest)} == ids


async def test_of_a_channel_no_more_come_than_are_wanted_and_the_oldest_first(house: House) -> None:
    first, second, third = [await house.run_request() for _ in range(3)]
    assert {delivery.request_id for delivery in await house.claim(2)} == {first, second}
    assert [delivery.request_id for delivery in await house.claim(2)] == [third]


async def test_channels_are_tenant_and_host_and_come_in_pages(house: House) -> None:
    await house.run_request("https://b.example/x")
    await house.run_request("http://user:secret@B.example:8080/y")
    await house.run_request("https://a.example?z")
    await house.run_request("https://a.example/other", tenant="bob")
    channels = [channel for channel, due in await house.outbox.channels(None, 10) if due]
    assert channels == [
        DeliveryChannel(TENANT, "a.example"),
        DeliveryChannel(TENANT, "b.example"),
        DeliveryChannel(TENANT, "b.example:8080"),
        DeliveryChannel("bob", "a.example"),
    ]
    page = [channel for channel, _ in await house.outbox.channels(channels[0], 2)]
    assert page == channels[1:3]
    assert await house.outbox.channels(channels[-1], 2) == []
    await house.claim(channel=channels[1])
    assert (await house.outbox.channels(None, 10))[1] == (channels[1], False)


async def test_the_first_body_stays(house: House) -> None:
    await house.run_request()
    (claimed,) = await house.claim()
    assert await house.outbox.keep_body(claimed, b"one") == b"one"
    assert await house.outbox.keep_body(claimed, b"two") == b"one"
    await house.outbox.record_failure(claimed, BAD, 0.0)
    (again,) = await house.claim()
    assert (again.id, again.body, again.tries) == (claimed.id, b"one", 1)


async def test_what_is_delivered_is_not_claimed_again(house: House) -> None:
    id_ = await house.run_request()
    (claimed,) = await house.claim()
    assert await house.outbox.record_success(claimed, FINE)
    assert await house.claim() == []
    delivery = await house.outbox.get(TENANT, id_)
    assert (delivery.state, delivery.status, delivery.tries) == (DeliveryState.DELIVERED, 200, 1)
    assert delivery.ended_at is not None
    assert delivery.due_at is None
    assert not await house.outbox.record_failure(claimed, BAD, None)
    assert (await house.outbox.get(TENANT, id_)).state is DeliveryState.DELIVERED


async def test_what_failed_is_due_again_later_or_dead(house: House) -> None:
    id_ = await house.run_request()
    (claimed,) = await house.claim()
    assert await house.outbox.record_failure(claimed, BAD, 60.0)
    assert await house.claim() == []
    delivery = await house.outbox.get(TENANT, id_)
    assert (delivery.state, delivery.error) == (DeliveryState.PENDING, BAD.error)
    assert delivery.due_at is not None
    await house.outbox.redeliver(TENANT, id_, Actor("key"))
    (claimed,) = await house.claim()
    assert await house.outbox.record_failure(
        claimed, ReceiverResponse(0.3, 410, "Gone.", final=True), None
    )
    assert (await house.outbox.get(TENANT, id_)).state is DeliveryState.DEAD
    assert await house.claim() == []
    tried = await house.outbox.tries(TENANT, id_)
    assert [(attempt.status, attempt.error) for attempt in tried] == [
        (500, BAD.error),
        (410, "Gone."),
    ]
    assert not await house.outbox.tries("bob", id_)


async def test_a_claim_that_is_put_back_is_no_try(house: House) -> None:
    id_ = await house.run_request()
    (claimed,) = await house.claim()
    assert await house.outbox.put_back(claimed, 0.0)
    assert not await house.outbox.put_back(claimed, 0.0)
    (again,) = await house.claim()
    assert again.tries == 0
    assert not await house.outbox.tries(TENANT, id_)


async def test_whose_claim_ran_out_is_fenced(forgetful: House) -> None:
    id_ = await forgetful.run_request()
    (late,) = await forgetful.claim()
    claims: list[ClaimedDelivery] = []

    async def claimed_again() -> bool:
        claims.extend(await forgetful.claim())
        return bool(claims)

    await eventually(claimed_again)
    assert claims[0].id == late.id
    assert await forgetful.outbox.keep_body(late, b"late") is None
    assert not await forgetful.outbox.record_success(late, FINE)
    assert not await forgetful.outbox.put_back(late, 0.0)
    assert await forgetful.outbox.record_success(claims[0], FINE)
    assert len(await forgetful.outbox.tries(TENANT, id_)) == 1


async def test_a_redelivery_fences_the_try_that_is_under_way(house: House) -> None:
    id_ = await house.run_request()
    (claimed,) = await house.claim()
    await house.outbox.keep_body(claimed, b"body")
    delivery = await house.outbox.redeliver(TENANT, id_, Actor("key-1"))
    assert delivery.state is DeliveryState.PENDING
    assert not await house.outbox.record_success(claimed, FINE)
    (again,) = await house.claim()
    assert (again.id, again.body, again.tries) == (claimed.id, b"body", 0)
    acts = await house.queue.operations.audit()
    assert [(act.actor, act.action, act.subject) for act in acts] == [
        ("key-1", "webhook.redeliver", id_)
    ]


async def test_what_has_not_ended_and_what_is_anothers_cannot_be_sent_again(house: House) -> None:
    waiting = await house.queue.submit(new(webhook=Webhook(URL, ORIGIN)))
    with pytest.raises(RequestActive, match="queued"):
        await house.outbox.redeliver(TENANT, waiting.id, Actor("key"))
    for tenant, id_ in (("bob", waiting.id), (TENANT, new().id)):
        with pytest.raises(RequestNotFound):
            await house.outbox.redeliver(tenant, id_, Actor("key"))
        with pytest.raises(RequestNotFound):
            await house.outbox.get(tenant, id_)
    assert not await house.queue.operations.audit()


async def test_pages_are_newest_first_by_state(house: House) -> None:
    ids = [await house.run_request() for _ in range(4)]
    for _ in range(3):
        await house.run_request(tenant="bob")
    delivered, dead = await house.claim(2, DeliveryChannel("bob", CHANNEL.host))
    await house.outbox.record_success(delivered, FINE)
    await house.outbox.record_failure(dead, BAD, None)
    claimed = {delivery.request_id: delivery for delivery in await house.claim()}
    await house.outbox.record_success(claimed[ids[0]], FINE)
    await house.outbox.record_failure(claimed[ids[1]], BAD, None)

    async def page(**wish: Any) -> list[str]:
        return [delivery.request_id for delivery in await house.outbox.page(TENANT, **wish)]

    assert await page() == ids[::-1]
    assert await page(limit=2) == ids[:1:-1]
    assert await page(before=ids[2], limit=2) == ids[1::-1]
    assert await page(state=DeliveryState.DELIVERED) == ids[:1]
    assert await page(state=DeliveryState.DEAD) == ids[1:2]
    assert await page(state=DeliveryState.PENDING) == ids[:1:-1]


async def test_the_backlog_is_counted_and_what_is_too_old_is_given_up(house: House) -> None:
    assert (await house.outbox.backlog()).pending == 0
    ids = [await house.run_request() for _ in range(3)]
    (first, *_) = await house.claim(1)
    await house.outbox.record_failure(first, BAD, 60.0)
    await asyncio.sleep(0.05)
    backlog = await house.outbox.backlog()
    assert backlog.pending == 3
    assert 0.04 < backlog.oldest_s < 30
    assert await house.outbox.expire(30.0) == 0
    assert await house.outbox.expire(0.01) == 3
    assert (await house.outbox.backlog()).pending == 0
    delivery = await house.outbox.get(TENANT, first.request_id)
    assert delivery.state is DeliveryState.DEAD
    assert delivery.error == f"Not delivered in time. {BAD.error}"
    assert first.request_id in ids


async def test_a_deleted_request_sends_no_notification(house: House) -> None:
    id_ = await house.run_request()
    (claimed,) = await house.claim()
    await house.queue.delete(TENANT, id_)
    assert not await house.outbox.record_failure(claimed, BAD, 1.0)
    assert await house.outbox.channels(None, 10) == []
    with pytest.raises(RequestNotFound):
        await house.outbox.get(TENANT, id_)
    assert (await house.queue.ask(ask(1))).leases == ()
