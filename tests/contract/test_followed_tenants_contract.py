"""Changes of a tenant's requests, in PostgreSQL and in the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.domain.ports import FollowedChanges, Queue
from serve_app.domain.request import State
from serve_app.telemetry.clock import SystemClock
from tests.contract.waiting import eventually
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, lease, make_finish, new

Queues = tuple[Queue, Queue]


@pytest.fixture(params=["fake", "one process", "two processes"])
async def queues(
    request: pytest.FixtureRequest, terms: FakeTerms, liveness: FakeLiveness
) -> AsyncIterator[Queues]:
    """The queue of the process that is asked, and of the one that works."""
    if request.param == "fake":
        fake = FakeQueue(SystemClock(), terms, LONG_LEASES, liveness)
        yield fake, fake
        return
    ingress = Ingress(request.getfixturevalue("conninfo"), terms, liveness)
    here = await ingress()
    there = here if request.param == "one process" else await ingress()

    async def both_listen() -> bool:
        return all(side.parts.state.notifier.listening for side in (here, there))

    await eventually(both_listen)
    yield here, there
    await ingress.aclose()


async def wait_for_state(changes: FollowedChanges, state: State | None, request_id: str) -> None:
    """Wait until the request is said to be in this state, or until changes may be missing."""
    for _ in range(20):
        batch = await changes.next(5.0)
        assert batch.complete or state is None
        if not batch.complete or (request_id, state) in [(r.id, r.state) for r in batch.requests]:
            return
    raise AssertionError(state)


async def test_a_request_is_followed_from_its_submission_to_its_deletion(queues: Queues) -> None:
    here, there = queues
    with here.follow(TENANT) as changes:
        await changes.next(0.2)
        request = await there.submit(new())
        await wait_for_state(changes, State.QUEUED, request.id)
        key = (await lease(there)).key
        await wait_for_state(changes, State.RUNNING, request.id)
        await there.finish(make_finish(key))
        await wait_for_state(changes, State.SUCCEEDED, request.id)
        await there.delete(TENANT, request.id)
        await wait_for_state(changes, None, request.id)


@pytest.mark.long
async def test_a_cancelled_and_a_handed_back_request_are_told(queues: Queues) -> None:
    here, there = queues
    with here.follow(TENANT) as changes:
        await changes.next(0.2)
        request = await there.submit(new())
        key = (await lease(there)).key
        await wait_for_state(changes, State.RUNNING, request.id)
        await there.hand_back(key, "r1", "draining")
        await wait_for_state(changes, State.QUEUED, request.id)
        await there.cancel(TENANT, request.id)
        await wait_for_state(changes, State.CANCELLED, request.id)


@pytest.mark.long
async def test_changes_of_other_tenants_and_silence_are_empty(queues: Queues) -> None:
    here, there = queues
    with here.follow(TENANT) as changes:
        await changes.next(0.2)
        await there.submit(new(tenant="bob"))
        batch = await changes.next(0.3)
        assert batch.requests == ()
        assert batch.complete


@pytest.mark.long
async def test_each_follower_is_told_once(queues: Queues) -> None:
    here, there = queues
    with here.follow(TENANT) as first, here.follow(TENANT) as second:
        await first.next(0.2)
        await second.next(0)
        request = await there.submit(new())
        await wait_for_state(first, State.QUEUED, request.id)
        await wait_for_state(second, State.QUEUED, request.id)
        assert (await first.next(0.2)).requests == ()
