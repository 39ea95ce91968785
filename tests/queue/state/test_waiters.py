"""Which asks a statement may lease to."""

from __future__ import annotations

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Ask, Lease
from serve_app.domain.request import Priority
from serve_app.queue.waiting_room import WaitingRoom
from serve_app.telemetry.clock import SystemClock

ENDPOINT = Endpoint("probe", "probe", Weights("probe"), "probe")


def ask(name: str, slots: int) -> Ask:
    return Ask(replica_id=name, actor_id=name, pool="pool", slots=slots)


def lease(name: str) -> Lease:
    return Lease(name, 1, 5.0, ENDPOINT, {}, (), Priority.NORMAL)


def test_free_slots_are_taken_in_turns() -> None:
    room = WaitingRoom(SystemClock())
    first, second = room.enter(ask("a", 3)), room.enter(ask("b", 1))
    assert room.reserve("pool", 9) == [first, second, first, first]


def test_a_slot_counts_until_its_lease_is_given() -> None:
    room = WaitingRoom(SystemClock())
    waiter = room.enter(ask("a", 3))
    assert room.reserve_one("pool", "probe") is waiter
    assert room.slots("pool") == 3
    room.give(waiter, lease("one"))
    assert room.slots("pool") == 2
    room.leave(waiter)
    assert room.slots("pool") == 0


def test_who_was_given_something_is_passed_over_and_returns_although_more_comes() -> None:
    room = WaitingRoom(SystemClock())
    waiter = room.enter(ask("a", 64))
    room.reserve("pool", 2)
    assert room.give(waiter, lease("one"))
    assert room.reserve("pool", 1) == []
    assert not room.wanted("pool")
    assert not waiter.ready  # for the statement that may still lease to its other slot
    room.release(waiter)
    assert waiter.ready


def test_who_was_given_nothing_may_be_reserved_again() -> None:
    room = WaitingRoom(SystemClock())
    waiter = room.enter(ask("a", 1))
    room.reserve("pool", 1)
    assert not room.wanted("pool")
    room.release(waiter)
    assert room.reserve("pool", 1) == [waiter]
