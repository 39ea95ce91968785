"""A finish that was stored, but whose reply was lost; and work that is never lost on its way."""

import asyncio
import time

import pytest

from serve_app.domain.errors import PipelineFailed, Unavailable
from serve_app.domain.lease import Ask, Finish, Signal, SignalKind, Verdict
from tests.deployments.waiting import until
from tests.fakes.lease_port import FakeLeasePort

pytestmark = pytest.mark.engine


class Lossy(FakeLeasePort):
    """Accepts each finish, notifies the replica (correctly) that it no longer holds the lease, and
    loses the reply to the first finish."""

    async def finish(self, finish: Finish) -> Verdict:
        await super().finish(finish)
        if len(self.finishes) == 1:
            self.signal(Signal(SignalKind.FENCED, finish.lease_key))
            raise Unavailable("The answer got lost.")
        return Verdict.ACCEPTED


async def test_it_is_handed_in_again_and_its_files_stay(make_rig):
    rig = await make_rig(Lossy(ask_wait_s=1.0))
    rig.offer("one", steps=1, artifact_bytes=10)
    first, again = await rig.port.wait_for_finishes(2)
    assert first == again
    assert (await rig.outcome(rig.offer("two", steps=0))).succeeded
    assert [request.method for request in rig.storage.requests] == ["PUT"]
    assert len(rig.storage.objects) == 1


class Picky(FakeLeasePort):
    """Cannot store the first outcome."""

    async def finish(self, finish: Finish) -> Verdict:
        await super().finish(finish)
        if len(self.finishes) == 1:
            raise PipelineFailed("The result cannot be stored.")
        return Verdict.ACCEPTED


async def test_an_outcome_that_cannot_be_stored_is_a_failure_and_its_files_are_deleted(make_rig):
    rig = await make_rig(Picky(ask_wait_s=1.0))
    rig.offer("one", steps=1, artifact_bytes=10)
    first, failed = await rig.port.wait_for_finishes(2)
    assert first.outcome.succeeded
    assert failed.outcome.failure is not None
    assert failed.outcome.failure.message == "The result cannot be stored."
    assert failed.outcome.usage == first.outcome.usage
    assert (await rig.outcome(rig.offer("two", steps=0))).succeeded
    await until(lambda: not rig.storage.objects)


async def test_an_ask_whose_time_ends_while_it_is_answered_gets_the_work(make_rig):
    """Of the fake port: on a busy machine, both happen in one turn of the loop."""
    lease = (await make_rig()).lease("one")
    port = FakeLeasePort(ask_wait_s=0.05)
    asking = asyncio.create_task(port.ask(Ask("replica-1", "ab" * 16, "pool", slots=1)))
    await port.until(lambda: port.asks)
    time.sleep(0.1)  # noqa: ASYNC251 - the loop is busy until its time is over
    asyncio.get_running_loop().call_soon(port.offer, lease)  # in the turn in which the time ends
    assert (await asking).leases == (lease,)
