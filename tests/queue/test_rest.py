"""Ingress processes on one database rest together, and never while requests wait or run."""

from __future__ import annotations

from serve_app.domain.rest import QUIET_S, Rest
from tests.contract.waiting import eventually
from tests.fakes.clock import FakeClock
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import lease, make_finish, new


class Resting:
    """A rest that begins when a test says so."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        self.rest = Rest(self._clock.monotonic)

    async def begin(self) -> None:
        async def is_on() -> bool:
            self._clock.advance(QUIET_S + 1)
            return self.rest.is_on

        await eventually(is_on)


async def test_a_call_at_one_process_ends_the_rest_of_the_others(ingress: Ingress) -> None:
    here, there = Resting(), Resting()
    await ingress(LONG_LEASES, rest=here.rest)
    await ingress(LONG_LEASES, rest=there.rest)
    await here.begin()
    await there.begin()

    async def there_is_awake() -> bool:
        here.rest.note_call()
        return not there.rest.is_on

    await eventually(there_is_awake)


async def test_a_process_does_not_rest_while_a_request_waits_or_runs(ingress: Ingress) -> None:
    here = Resting()
    queue = await ingress(LONG_LEASES, rest=here.rest)
    await queue.submit(new())
    await here.begin()
    await queue.demand()
    assert not here.rest.is_on
    granted = await lease(queue)
    await here.begin()
    await queue.demand()
    assert not here.rest.is_on
    await queue.finish(make_finish(granted.key))
    await here.begin()
    await queue.demand()
    assert here.rest.is_on


async def test_a_queue_that_rested_leases_what_is_submitted_at_once(ingress: Ingress) -> None:
    here = Resting()
    queue = await ingress(LONG_LEASES, rest=here.rest)
    await here.begin()
    request = await queue.submit(new())
    assert (await lease(queue)).request_id == request.id
