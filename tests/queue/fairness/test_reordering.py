"""Requests behind the front of a lane go first where they should, and are not read elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.domain.lease import LeasePreference
from serve_app.postgres.database import Database
from serve_app.queue.fairness.fair_queue import LOOK_NEAR, MAX_DUE_AGE_S, Reordering
from tests.fakes.clock import FakeClock
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import POOL, ask, new

FLUX, SDXL = "fal-ai/flux/dev", "fal-ai/fast-sdxl"


async def test_a_request_for_loaded_weights_goes_first_however_many_others_are_before_it(
    ingress: Ingress,
) -> None:
    queue = await ingress(LONG_LEASES)
    for _ in range(2 * LOOK_NEAR):
        await queue.submit(new(endpoint=SDXL))
    hot = await queue.submit(new(endpoint=FLUX))
    (granted,) = (await queue.ask(replace(ask(1), hot=(FLUX,)))).leases
    assert granted.request_id == hot.id


async def test_a_request_that_expires_soon_goes_first_when_it_has_been_found(
    ingress: Ingress,
) -> None:
    queue = await ingress(LONG_LEASES)
    for _ in range(2 * LOOK_NEAR):
        await queue.submit(new())
    due = await queue.submit(new(start_within_s=4.0))
    await queue.parts.state.reordering.look()
    (granted,) = (await queue.ask(ask(1))).leases
    assert granted.request_id == due.id


@pytest.mark.parametrize(
    ("hot", "host", "not_hot", "possible"),
    [
        (set(), set(), 9, False),  # all wait for weights
        ({FLUX}, set(), 0, False),  # none does
        ({FLUX}, set(), 1, True),
        (set(), {SDXL}, 9, True),
    ],
)
async def test_requests_are_reordered_only_if_the_weights_of_some_are_nearer(
    database: Database, hot: set[str], host: set[str], not_hot: int, possible: bool
) -> None:
    reordering = Reordering(database, FakeClock())
    await reordering.look()
    wants = LeasePreference(frozenset(hot), frozenset(host))
    assert reordering.reads_far(POOL, wants, 1, not_hot=not_hot, lanes=1) is possible


@pytest.mark.parametrize(("slots", "lanes", "far"), [(8, 1, False), (9, 8, True), (9, 9, False)])
async def test_few_lanes_are_read_far_for_many_slots(
    database: Database, slots: int, lanes: int, far: bool
) -> None:
    reordering = Reordering(database, FakeClock())
    await reordering.look()
    wants = LeasePreference()
    assert reordering.reads_far(POOL, wants, slots, not_hot=9, lanes=lanes) is far


async def test_what_was_not_looked_at_for_long_may_be_due(database: Database) -> None:
    clock = FakeClock()
    reordering = Reordering(database, clock)

    def reads_far() -> bool:
        return reordering.reads_far(POOL, LeasePreference(), 1, not_hot=0, lanes=1)

    assert reads_far()
    await reordering.look()
    assert not reads_far()
    clock.advance(MAX_DUE_AGE_S + 0.1)
    assert reads_far()


@pytest.mark.long
async def test_one_lane_fills_all_slots_by_several_leasings(ingress: Ingress) -> None:
    """Many lanes were counted, and one has all the work."""
    queue = await ingress(LONG_LEASES)
    ids = {(await queue.submit(new())).id for _ in range(3 * LOOK_NEAR)}
    for n in range(2 * LOOK_NEAR):
        cancelled = await queue.submit(new(tenant=f"t{n}"))
        await queue.cancel(cancelled.tenant, cancelled.id)
    got: set[str] = set()
    while len(got) < len(ids):
        leases = (await queue.ask(ask(2 * LOOK_NEAR, replica=f"r{len(got)}"))).leases
        assert leases
        got |= {granted.request_id for granted in leases}
    assert got == ids
