"""Contract of repeated submits, for every ``Queue``: over the fake and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.domain.errors import InvalidInput, Overloaded
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Request, State
from serve_app.telemetry.clock import SystemClock
from tests.contract.queues import Make
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Background, Ingress
from tests.queue.requests import TENANT, ask, lease, make_finish, new, new_id

PATIENT = replace(LONG_LEASES, ask_wait_s=5.0)


def keyed_request(key: str = "k", body: int = 1, **changes: Any) -> NewRequest:
    return new(idempotency_key=key, body_digest=bytes([body]) * 32, **changes)


async def test_a_repeat_that_was_not_validated_is_never_stored(queue: Queue) -> None:
    first = await queue.submit(keyed_request())
    for repeat in (keyed_request(), keyed_request("another"), new()):
        with pytest.raises(ValueError, match="was not validated"):
            await queue.submit(replace(repeat, repeats=first))
    assert [listed.id for listed in await queue.page(TENANT, limit=10)] == [first.id]


async def test_the_same_key_and_body_is_the_same_request_at_every_stage(queue: Queue) -> None:
    first = await queue.submit(keyed_request())
    assert (await queue.submit(keyed_request())).id == first.id
    granted = await lease(queue)
    running = await queue.submit(keyed_request())
    assert (running.id, running.state) == (first.id, State.RUNNING)
    await queue.finish(make_finish(granted.key))
    ended = await queue.submit(keyed_request())
    assert (ended.id, ended.state) == (first.id, State.SUCCEEDED)
    assert ended == await queue.get(TENANT, first.id)
    assert [listed.id for listed in await queue.page(TENANT)] == [first.id]


async def test_the_same_key_with_another_body_is_refused_and_names_the_header(
    queue: Queue,
) -> None:
    await queue.submit(keyed_request())
    for act in (queue.submit, queue.find_earlier):
        with pytest.raises(InvalidInput, match="Idempotency-Key") as caught:
            await act(keyed_request(body=2))
        assert caught.value.problems[0].loc == ("header", "Idempotency-Key")
    assert len(await queue.page(TENANT)) == 1


async def test_a_key_counts_for_its_tenant_and_endpoint_only(queue: Queue) -> None:
    ids = {
        (await queue.submit(keyed_request(tenant=tenant, endpoint=endpoint))).id
        for tenant in (TENANT, "bob")
        for endpoint in ("fal-ai/flux/schnell", "fal-ai/flux/dev")
    }
    assert len(ids) == 4


async def test_requests_without_a_key_are_never_repeats(queue: Queue) -> None:
    body = bytes(32)
    ids = {(await queue.submit(new(body_digest=body))).id for _ in range(2)}
    assert len(ids) == 2
    assert await queue.find_earlier(new(body_digest=body)) is None


async def test_whether_it_is_a_repeat_can_be_asked_before_it_is_submitted(queue: Queue) -> None:
    assert await queue.find_earlier(keyed_request()) is None
    stored = await queue.submit(keyed_request())
    assert await queue.find_earlier(keyed_request()) == stored


async def test_a_hundred_identical_submits_at_once_are_one_request(make: Make) -> None:
    queue = await make(PATIENT)
    asking = asyncio.create_task(queue.ask(ask(4)))
    await asyncio.sleep(0.05)
    answers = await asyncio.gather(*(queue.submit(keyed_request()) for _ in range(100)))
    (request_id,) = {answer.id for answer in answers}
    assert [grant.request_id for grant in (await asking).leases] == [request_id]
    assert [listed.id for listed in await queue.page(TENANT)] == [request_id]
    assert [line.sequence for line in await queue.lines(TENANT, request_id)] == [1, 2]


async def test_repeats_leave_no_trace_in_the_caps(make: Make) -> None:
    queue = await make(replace(LONG_LEASES, max_waiting_per_tenant=3))
    await asyncio.gather(*(queue.submit(keyed_request()) for _ in range(3)))
    await queue.submit(new())
    await queue.submit(new())
    with pytest.raises(Overloaded):
        await queue.submit(new())


async def test_a_waiting_ask_is_still_served_after_a_repeat_passed_it_by(make: Make) -> None:
    queue = await make(PATIENT)
    await queue.submit(keyed_request())
    await lease(queue)
    asking = asyncio.create_task(queue.ask(ask(1, replica="r2")))
    await asyncio.sleep(0.05)
    await queue.submit(keyed_request())
    fresh = await queue.submit(new())
    assert [grant.request_id for grant in (await asking).leases] == [fresh.id]


# Undelivered responses


def replaying(body: int = 1, api_key: str = "dk_1", **changes: Any) -> NewRequest:
    return new(replay_key=api_key, body_digest=bytes([body]) * 32, **changes)


async def test_an_undelivered_answer_is_given_again_once(queue: Queue) -> None:
    first = replaying()
    stored = await queue.submit(first)
    assert await queue.find_earlier(replaying()) is None
    await queue.record_undelivered(first, stored.id)
    assert await queue.find_earlier(replaying()) == stored
    assert await queue.find_earlier(replaying()) is None


async def test_what_is_lost_again_is_given_again(queue: Queue) -> None:
    first = replaying()
    await queue.submit(first)
    for _ in range(3):
        await queue.record_undelivered(first, first.id)
        again = await queue.find_earlier(replaying())
        assert again is not None
        assert again.id == first.id
    for _ in range(2):  # recorded twice, it is still one
        await queue.record_undelivered(first, first.id)
    assert await queue.find_earlier(replaying()) is not None
    assert await queue.find_earlier(replaying()) is None


async def test_an_undelivered_answer_is_for_the_same_body_and_key_only(queue: Queue) -> None:
    first = replaying()
    await queue.submit(first)
    await queue.record_undelivered(first, first.id)
    for other in (
        replaying(body=2),
        replaying(api_key="dk_2"),
        replace(replaying(), replay_key=None),
        keyed_request(body=1),
    ):
        assert await queue.find_earlier(other) is None
    assert await queue.find_earlier(replaying()) is not None


async def test_of_two_undelivered_answers_two_that_ask_at_once_get_one_each(queue: Queue) -> None:
    ids: set[str] = set()
    for _ in range(2):
        lost = replaying()
        ids.add((await queue.submit(lost)).id)
        await queue.record_undelivered(lost, lost.id)
    answers = await asyncio.gather(*(queue.find_earlier(replaying()) for _ in range(5)))
    replayed = [answer.id for answer in answers if answer is not None]
    assert len(replayed) == len(set(replayed)) <= 2
    while (late := await queue.find_earlier(replaying())) is not None:
        replayed.append(late.id)  # a row locked by another is skipped at first
    assert sorted(replayed) == sorted(ids)


# Any combination of concurrent submits


@dataclass(frozen=True)
class Sent:
    """A submit, and the ingress process that gets it."""

    key: str | None
    body: int
    tenant: str
    ingress: int


SENT = st.builds(
    Sent,
    key=st.sampled_from([None, "a", "b", "c"]),
    body=st.sampled_from([1, 1, 1, 2]),
    tenant=st.sampled_from([TENANT, "bob"]),
    ingress=st.integers(0, 1),
)
TOGETHER = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


async def one_request_per_key(queues: Sequence[Queue], batch: Sequence[Sent]) -> None:
    """The property. An endpoint of its own makes the keys of each batch new."""
    endpoint = f"test/{new_id()}"
    submits = [
        queues[sent.ingress % len(queues)].submit(
            new(
                idempotency_key=sent.key,
                body_digest=bytes([sent.body]) * 32,
                tenant=sent.tenant,
                endpoint=endpoint,
            )
        )
        for sent in batch
    ]
    answers = await asyncio.gather(*submits, return_exceptions=True)
    by_key: dict[tuple[str, str], set[tuple[int, str]]] = defaultdict(set)
    ids: set[str] = set()
    alone = 0
    for sent, answer in zip(batch, answers, strict=True):
        if isinstance(answer, Request):
            ids.add(answer.id)
            alone += sent.key is None
            if sent.key is not None:
                by_key[sent.tenant, sent.key].add((sent.body, answer.id))
        else:
            assert isinstance(answer, InvalidInput), answer
            assert sent.key is not None
    assert by_key.keys() == {(sent.tenant, sent.key) for sent in batch if sent.key is not None}
    assert all(len(group) == 1 for group in by_key.values()), "one body, one id for each key"
    assert len(ids) == len(by_key) + alone
    stored = {
        request.id
        for tenant in (TENANT, "bob")
        for request in await queues[0].page(tenant, limit=10_000)
        if request.endpoint == endpoint
    }
    assert stored == ids


def test_at_once_there_is_one_request_per_key_in_the_fake() -> None:
    queue = FakeQueue(SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness())
    with Background() as background:

        @TOGETHER
        @given(st.lists(SENT, min_size=1, max_size=40))
        def holds(batch: list[Sent]) -> None:
            background.run(one_request_per_key([queue], batch))

        holds()


def test_at_once_there_is_one_request_per_key_in_postgresql(conninfo: str) -> None:
    with Background() as background:
        ingress = Ingress(conninfo, FakeTerms(), FakeLiveness())
        queues = [background.run(ingress()) for _ in range(2)]

        @TOGETHER
        @given(st.lists(SENT, min_size=1, max_size=40))
        def holds(batch: list[Sent]) -> None:
            background.run(one_request_per_key(queues, batch))

        try:
            holds()
        finally:
            background.run(ingress.aclose())
