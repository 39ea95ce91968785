"""Waiting polls that a statement may lease to."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Ask, Lease, LeasePreference, LeftOut
from serve_app.domain.request import Priority
from serve_app.queue.state.waiters import PROMPT_RETURNS, RETURN_S, PoolOffer, Waiters, turns
from serve_app.telemetry.clock import SystemClock
from tests.fakes.clock import FakeClock

ENDPOINT = Endpoint("probe", "probe", Weights("probe"), "probe")


def ask(name: str, slots: int) -> Ask:
    return Ask(replica_id=name, actor_id=name, pool="pool", slots=slots)


def lease(name: str) -> Lease:
    return Lease(name, 1, 5.0, ENDPOINT, {}, (), Priority.NORMAL)


def test_free_slots_are_taken_in_turns() -> None:
    waiters = Waiters(SystemClock())
    first, second = waiters.add(ask("a", 3)), waiters.add(ask("b", 1))
    assert waiters.reserve("pool", 9) == [first, second, first, first]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=8), st.integers(0, 12))
def test_slots_of_a_pool_are_taken_before_those_of_its_overflow_pools(
    polls: list[tuple[int, int]], most: int
) -> None:
    """``polls``: number of pools that are filled before that of the replica, and its free slots."""
    waiters = Waiters(SystemClock())
    for number, (rank, slots) in enumerate(polls):
        poll = replace(ask(f"r{number}", slots), pool=f"pool-{rank}")
        waiters.add(poll, PoolOffer("pool", rank))
    ranks = [waiter.rank for waiter in waiters.reserve("pool", most)]
    assert ranks == sorted(rank for rank, slots in polls for _ in range(slots))[:most]
    assert waiters.slots("pool") == sum(slots for _, slots in polls)


def test_a_request_goes_to_an_overflow_pool_only_if_the_first_has_no_free_slot() -> None:
    waiters = Waiters(SystemClock())
    hot = replace(ask("o", 1), pool="other", hot=("probe",))
    other = waiters.add(hot, PoolOffer("pool", 1, LeftOut(frozenset({"large"}))))
    own = waiters.add(ask("r", 1))
    assert waiters.reserve_one("pool", "probe", "ann") is own
    assert waiters.reserve_one("pool", "large", "ann") is None
    assert waiters.idle() == {"pool": (0, 0), "other": (1, 1)}
    assert waiters.reserve_one("pool", "probe", "ann") is other


def test_a_slot_counts_until_its_lease_is_given() -> None:
    waiters = Waiters(SystemClock())
    waiter = waiters.add(ask("a", 3))
    assert waiters.reserve_one("pool", "probe", "ann") is waiter
    assert waiters.slots("pool") == 3
    waiters.deliver(waiter, lease("one"))
    assert waiters.slots("pool") == 2
    waiters.remove(waiter)
    assert waiters.slots("pool") == 0


def test_a_request_goes_where_its_weights_are_on_the_device_or_else_in_host_memory() -> None:
    waiters = Waiters(SystemClock())
    cold = waiters.add(ask("a", 1))
    warm = waiters.add(replace(ask("b", 1), warm=("probe",)))
    hot = waiters.add(replace(ask("c", 1), hot=("probe",)))
    taken = [waiters.reserve_one("pool", "probe", "ann") for _ in range(3)]
    assert taken == [hot, warm, cold]


def test_who_was_given_something_is_passed_over_and_returns_although_more_comes() -> None:
    waiters = Waiters(SystemClock())
    waiter = waiters.add(ask("a", 64))
    waiters.reserve("pool", 2)
    assert waiters.deliver(waiter, lease("one"))
    assert waiters.reserve("pool", 1) == []
    assert not waiters.has_free_slot("pool")
    assert not waiter.ready  # because a statement may still lease to its other slot
    waiters.release(waiter)
    assert waiter.ready


def test_who_was_given_nothing_may_be_reserved_again() -> None:
    waiters = Waiters(SystemClock())
    waiter = waiters.add(ask("a", 1))
    waiters.reserve("pool", 1)
    assert not waiters.has_free_slot("pool")
    waiters.release(waiter)
    assert waiters.reserve("pool", 1) == [waiter]


def answer(waiters: Waiters) -> None:
    """Give a replica one request for four slots."""
    waiter = waiters.add(ask("a", 4))
    waiters.reserve("pool", 1)
    waiters.deliver(waiter, lease("one"))
    waiters.remove_answered(waiter)


def test_a_replica_is_expected_once_it_has_returned_in_time_in_a_row() -> None:
    clock = FakeClock()
    waiters = Waiters(clock)
    for _ in range(PROMPT_RETURNS):
        answer(waiters)
        assert waiters.slots_soon("pool", leasing=False) == 0
    answer(waiters)
    assert waiters.slots_soon("pool", leasing=False) == 3
    assert waiters.slots_soon("other", leasing=False) == 0
    clock.advance(2 * RETURN_S)
    assert waiters.slots_soon("pool", leasing=False) == 0
    answer(waiters)  # it was late
    assert waiters.slots_soon("pool", leasing=False) == 0


PLACES = st.frozensets(st.sampled_from(["flux", "sdxl", "wan"]), max_size=3)
WANTS = st.builds(
    LeasePreference, PLACES, PLACES, st.builds(LeftOut, st.frozensets(st.just("wan"), max_size=1))
)


@given(st.lists(WANTS, min_size=1, max_size=5))
def test_each_waiting_replica_is_last_offered_all_that_it_wants(
    wanted: list[LeasePreference],
) -> None:
    waiters = Waiters(SystemClock())
    for n, wants in enumerate(wanted):
        polled = replace(ask(str(n), 2), hot=tuple(wants.hot), warm=tuple(wants.host))
        waiters.add(replace(polled, coming=tuple(wants.left_out.endpoints)))
    offers = turns(waiters.reserve("pool", 64))
    last = dict(offers)
    assert last == {wants: wants for wants in wanted}
    assert [wants for wants, _ in offers[-len(last) :]] == [*dict.fromkeys(wanted)]
    assert len(offers) in (len(last), 2 * len(last))
    for wants, offered in offers[: -len(last)]:
        for endpoint in offered.left_out.endpoints - wants.left_out.endpoints:
            nearest = min(
                preference.distance(endpoint)
                for preference in wanted
                if endpoint not in preference.left_out.endpoints
            )
            assert nearest < wants.distance(endpoint)
