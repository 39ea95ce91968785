"""The trace of a submit is stored with its request, for each attempt and its webhook."""

from __future__ import annotations

from serve_app.domain.ports import Queue
from serve_app.domain.webhook import DeliveryChannel, Outbox, Webhook
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from tests.fakes.queue import FakeQueue
from tests.queue.requests import TENANT, lease, make_finish, new

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 a=1,b=2"
HOST = "receiver.example"


def outbox_of(queue: Queue) -> Outbox:
    if isinstance(queue, PostgresQueue):
        return PostgresOutbox(queue._database)
    assert isinstance(queue, FakeQueue)
    return queue.outbox


async def test_the_trace_of_a_submit_stays_with_the_request_and_its_webhook(queue: Queue) -> None:
    for trace in (TRACE, ""):
        webhook = Webhook(f"https://{HOST}/hook", "http://darkroom.example")
        request = await queue.submit(new(trace=trace, webhook=webhook))
        assert request.trace == trace
        first = await lease(queue)
        await queue.hand_back(first.key, "r1", "It stops.")
        second = await lease(queue)
        assert (second.request_id, second.attempt) == (request.id, 2)
        assert (await queue.get(TENANT, request.id)).trace == trace
        await queue.finish(make_finish(second.key))
        (claimed,) = await outbox_of(queue).claim({DeliveryChannel(TENANT, HOST): 8})
        assert (claimed.request_id, claimed.trace) == (request.id, trace)


async def test_a_request_with_the_outcome_of_another_has_a_trace_of_its_own(queue: Queue) -> None:
    shared = {"reuse_digest": b"x" * 32}
    await queue.submit(new(**shared))
    await queue.finish(make_finish((await lease(queue)).key))
    reusing = await queue.submit(new(**shared, trace=TRACE))
    assert (reusing.reuses is not None, reusing.trace) == (True, TRACE)
