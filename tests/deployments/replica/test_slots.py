"""Slots on offer, as a function of the attempts, and the order of those that wait for one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.replica.attempt_state import AttemptState, Phase
from deployments.replica.config import ReplicaConfig
from deployments.replica.poller import (
    TENANTS_FETCHING,
    SlotOffer,
    SlotQueue,
    max_fetches,
    slot_offer,
)
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.request import Priority
from serve_app.telemetry.clock import SystemClock
from tests.deployments.conftest import PROBE, MakeRig


@dataclass
class User:
    lease: Lease
    state: AttemptState


def user(phase: Phase, tenant: str = "ann", priority: Priority = Priority.NORMAL) -> User:
    lease = Lease("id", 1, 5.0, PROBE, {}, (), priority, tenant=tenant)
    state = AttemptState(SystemClock(), lambda: None, phase)
    return User(lease, state)


PHASES = st.sampled_from(
    [Phase.WAITING, Phase.FETCHING, Phase.LOADING, Phase.IN_ENGINE, Phase.DELIVERING]
)


async def test_a_request_that_fetches_takes_no_slot_of_the_offer() -> None:
    assert slot_offer(2, []) == SlotOffer(2)
    assert slot_offer(2, [user(Phase.IN_ENGINE)]) == SlotOffer(1)
    assert slot_offer(2, [user(Phase.WAITING)]) == SlotOffer(1)
    assert slot_offer(4, [user(Phase.FETCHING)]) == SlotOffer(3)  # of her share of four
    fetching = [user(Phase.FETCHING) for _ in range(4)]
    assert slot_offer(4, fetching) == SlotOffer(4, ("ann",))
    assert slot_offer(4, [*fetching, user(Phase.IN_ENGINE, "bob")]) == SlotOffer(3, ("ann",))


async def test_fetches_of_many_tenants_take_slots_beyond_a_bound() -> None:
    share = max_fetches(1)
    tenants = [f"t{n}" for n in range(TENANTS_FETCHING)]
    fetching = [user(Phase.FETCHING, tenant) for tenant in tenants for _ in range(share)]
    assert slot_offer(1, fetching) == SlotOffer(1, tuple(tenants))
    assert slot_offer(1, [*fetching, user(Phase.FETCHING, "more")]).slots == 0


@given(slots=st.integers(1, 9), grants=st.lists(st.tuples(st.sampled_from("abc"), st.booleans())))
async def test_a_tenant_never_fetches_more_than_its_share_whatever_is_leased(
    slots: int, grants: list[tuple[str, bool]]
) -> None:
    users: list[User] = []
    while grants:
        offer = slot_offer(slots, users)
        granted = [grant for grant in grants[: offer.slots] if grant[0] not in offer.full_tenants]
        if not granted:
            break
        users += [user(Phase.FETCHING if f else Phase.IN_ENGINE, t) for t, f in granted]
        grants = grants[offer.slots :]
    for tenant in "abc":
        fetches = [u for u in users if u.state.is_fetching and u.lease.tenant == tenant]
        assert len(fetches) <= max_fetches(slots)


async def test_a_free_slot_is_taken_at_once_and_a_freed_one_by_priority() -> None:
    users = {
        LeaseKey(name, 1): user(Phase.WAITING, priority=priority)
        for name, priority in (
            ("a", Priority.NORMAL),
            ("b", Priority.NORMAL),
            ("c", Priority.HIGH),
        )
    }
    queue = SlotQueue(1, users)
    a, b, c = users.values()
    await queue.take(a)
    assert a.state.holds_slot
    waiting = [asyncio.create_task(queue.take(waiter)) for waiter in (b, c)]
    await asyncio.sleep(0)
    assert not b.state.holds_slot
    a.state.enter(Phase.DELIVERING)
    queue.wake()
    await waiting[1]
    assert (b.state.holds_slot, c.state.holds_slot) == (False, True)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    c.state.enter(Phase.ENDED)
    queue.wake()
    assert not b.state.holds_slot


async def test_a_stopped_attempt_leaves_its_turn_to_the_next() -> None:
    users = {LeaseKey(name, 1): user(Phase.WAITING) for name in "abc"}
    queue = SlotQueue(1, users)
    a, b, c = users.values()
    await queue.take(a)
    waiting = [asyncio.create_task(queue.take(waiter)) for waiter in (b, c)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    a.state.enter(Phase.ENDED)
    queue.wake()
    await asyncio.gather(*waiting, return_exceptions=True)
    b.state.enter(Phase.ENDED)
    queue.wake()
    assert c.state.holds_slot


async def test_a_replica_offers_the_slots_of_the_device_that_it_found(make_rig: MakeRig):
    rig = await make_rig(slots=2, slots_by_memory={0: 2, 80: 5}, device_bytes=85 * 10**9)
    await rig.port.until(lambda: rig.port.asks)
    assert rig.port.asks[0].slots == 5


@pytest.mark.parametrize(("device_gb", "slots"), [(0, 3), (23.6, 4), (79.2, 6), (85, 6), (191, 8)])
def test_slots_are_those_of_the_largest_class_that_the_device_reaches(device_gb: float, slots: int):
    config = ReplicaConfig(slots=3, slots_by_memory={0: 4, 80: 6, 192: 8})
    assert config.slots_on(int(device_gb * 1e9)) == slots
    assert ReplicaConfig(slots=3).slots_on(int(device_gb * 1e9)) == 3
