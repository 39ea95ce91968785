"""Contract of submits and lease polls, for every ``Queue``: over the fake and PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Overloaded, RequestNotFound
from serve_app.domain.lease import Lease, Work
from serve_app.domain.ports import Queue
from serve_app.domain.request import Priority, State
from tests.contract.queues import Make
from tests.contract.waiting import eventually
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, QUICK, UNCONFIRMED
from tests.queue.requests import TENANT, ask, lease, new, new_id

# Submit


async def test_a_submitted_request_is_queued(queue: Queue) -> None:
    new_request = new(input={"prompt": "z\0\ud800", "a": [1, {"b": None}], "A": 0.1})
    request = await queue.submit(new_request)
    assert request.state is State.QUEUED
    again = await queue.get(TENANT, new_request.id)
    assert again == request
    assert again.input == new_request.input
    assert again.endpoint_digest == new_request.endpoint_digest
    assert list(again.input) == ["prompt", "a", "A"]


async def test_warnings_become_lines_of_the_request_s_log(queue: Queue) -> None:
    request = await queue.submit(new(warnings=("The seed was taken modulo 2^32.", "Slow.")))
    lines = await queue.lines(TENANT, request.id)
    assert [line.sequence for line in lines] == [1, 2, 3]
    assert [line.level for line in lines] == ["INFO", "WARNING", "WARNING"]
    assert lines[1].message == "The seed was taken modulo 2^32."


async def test_log_lines_can_be_added(queue: Queue) -> None:
    request = await queue.submit(new())
    await queue.log(request.id, ("INFO", "Hello."), ("ERROR", "Oh."))
    await queue.log(new_id(), ("INFO", "No one's."))
    lines = (await queue.lines(TENANT, request.id))[-2:]
    assert [(line.level, line.message) for line in lines] == [("INFO", "Hello."), ("ERROR", "Oh.")]
    assert [line.sequence for line in lines] == [2, 3]


async def test_another_tenant_s_request_is_not_found(queue: Queue) -> None:
    request = await queue.submit(new())
    for tenant, id_ in (("bob", request.id), (TENANT, new_id()), (TENANT, "no-such-id")):
        with pytest.raises(RequestNotFound):
            await queue.get(tenant, id_)
        with pytest.raises(RequestNotFound):
            await queue.cancel(tenant, id_)
        with pytest.raises(RequestNotFound):
            await queue.lines(tenant, id_)
        with pytest.raises(RequestNotFound):
            await queue.wait(tenant, id_, 0.1)


async def test_past_the_caps_submits_are_refused(make: Make) -> None:
    queue = await make(replace(LONG_LEASES, max_waiting=3, max_waiting_per_tenant=2))
    await queue.submit(new())
    await queue.submit(new())
    with pytest.raises(Overloaded) as refused:
        await queue.submit(new())
    assert refused.value.retry_after_s >= 1.0
    await queue.submit(new(tenant="bob"))
    with pytest.raises(Overloaded):
        await queue.submit(new(tenant="eve"))
    await queue.ask(ask(1))
    await queue.submit(new(tenant="eve"))


async def test_who_wants_a_short_queue_is_refused_at_a_longer_one(make: Make) -> None:
    queue = await make()
    await queue.submit(new(pool="other"))
    burst = (queue.submit(new(), most_queued=3) for _ in range(20))
    answers = await asyncio.gather(*burst, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 17
    assert all(refusal.retry_after_s >= 1.0 for refusal in refused)
    await queue.submit(new(), most_queued=4)
    await queue.submit(new())


async def test_what_waits_for_a_paused_endpoint_makes_no_queue_longer(make: Make) -> None:
    queue = await make()
    paused = await queue.submit(new())
    await queue.operations.pause(paused.endpoint, Actor("operator"))
    await queue.submit(new(endpoint="fal-ai/flux/dev"), most_queued=1)


async def test_a_page_is_newest_first_and_goes_on_before_an_id(queue: Queue) -> None:
    ids = [(await queue.submit(new())).id for _ in range(5)]
    await queue.submit(new(tenant="bob"))
    first = await queue.page(TENANT, limit=3)
    assert [request.id for request in first] == ids[:1:-1]
    rest = await queue.page(TENANT, before=first[-1].id, limit=3)
    assert [request.id for request in rest] == ids[1::-1]
    await queue.cancel(TENANT, ids[0])
    assert [listed.id for listed in await queue.page(TENANT, states=[State.CANCELLED])] == [ids[0]]


# Lease polls


async def test_an_ask_gets_the_oldest_of_the_highest_priority(queue: Queue) -> None:
    low = await queue.submit(new(priority=Priority.LOW))
    first = await queue.submit(new())
    second = await queue.submit(new())
    high = await queue.submit(new(priority=Priority.HIGH))
    order = [(await queue.ask(ask(1))).leases[0].request_id for _ in range(4)]
    assert order == [high.id, first.id, second.id, low.id]


async def test_an_ask_takes_as_many_as_it_has_slots_and_only_its_pool_s(queue: Queue) -> None:
    for _ in range(3):
        await queue.submit(new())
    await queue.submit(new(pool="other"))
    work = await queue.ask(ask(2))
    assert len(work.leases) == 2
    assert len((await queue.ask(ask(5))).leases) == 1


async def test_a_lease_carries_all_that_running_it_takes(queue: Queue) -> None:
    request = await queue.submit(new())
    (granted,) = (await queue.ask(ask(1))).leases
    assert (granted.request_id, granted.attempt) == (request.id, 1)
    assert granted.input == request.input
    assert granted.endpoint.id == request.endpoint
    assert granted.upload_tickets[0].key.startswith(f"{request.id}/1/")
    assert granted.files_url == "memory://files"
    assert granted.describe_files
    running = await queue.get(TENANT, request.id)
    assert (running.state, running.attempt, running.replica_id) == (State.RUNNING, 1, "r1")
    assert running.started_at is not None


@pytest.mark.parametrize("alone", [True, False])
async def test_who_is_to_run_alone_is_leased_so_each_time(queue: Queue, alone: bool) -> None:
    request = await queue.submit(new(alone=alone))
    for _ in range(2):
        granted = await lease(queue)
        assert granted.alone is alone
        await queue.hand_back(granted.key, "r1", "draining")
    assert (await queue.get(TENANT, request.id)).alone is alone


async def test_a_waiting_ask_gets_a_request_as_it_is_submitted(make: Make) -> None:
    queue = await make(replace(LONG_LEASES, ask_wait_s=30.0))
    asking = asyncio.create_task(queue.ask(ask(1)))
    await asyncio.sleep(0.1)
    request = await queue.submit(new())
    work = await asking
    assert [grant.request_id for grant in work.leases] == [request.id]


async def test_an_ask_without_work_ends_after_its_time(queue: Queue) -> None:
    began = time.monotonic()
    assert await queue.ask(ask(1)) == Work()
    assert time.monotonic() - began >= QUICK.ask_wait_s - 0.05


async def test_an_ask_without_slots_gets_no_work(queue: Queue) -> None:
    await queue.submit(new())
    assert await queue.ask(ask(0)) == Work()


async def test_a_request_whose_endpoint_is_gone_fails_when_it_is_leased(
    queue: Queue, terms: FakeTerms
) -> None:
    request = await queue.submit(new())
    terms.gone.add(request.endpoint)
    assert await queue.ask(ask(1)) == Work()
    ended = await queue.wait(TENANT, request.id, 60.0)
    assert ended.state is State.FAILED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "endpoint_not_found"


async def test_an_ask_that_goes_away_loses_no_request(make: Make) -> None:
    queue = await make(UNCONFIRMED)
    asking = asyncio.create_task(queue.ask(ask(1)))
    await asyncio.sleep(0.05)
    submitting = asyncio.create_task(queue.submit(new()))
    await asyncio.sleep(0)
    asking.cancel()
    request = await submitting
    await asyncio.gather(asking, return_exceptions=True)
    granted: list[Lease] = []

    async def leased_again() -> bool:
        granted.extend((await queue.ask(ask(1, replica="r2"))).leases)
        return bool(granted)

    # At once. A lease under way to the other replica comes back when its first, short time is over.
    await eventually(leased_again)
    assert [grant.request_id for grant in granted] == [request.id]
    assert (await queue.get(TENANT, request.id)).failures == 0


async def test_concurrent_asks_never_share_a_request(queue: Queue) -> None:
    ids = {(await queue.submit(new())).id for _ in range(20)}
    works = await asyncio.gather(*(queue.ask(ask(3, replica=f"r{n}")) for n in range(10)))
    leased = [granted.request_id for work in works for granted in work.leases]
    assert len(leased) == len(set(leased)) == 20
    assert set(leased) == ids
