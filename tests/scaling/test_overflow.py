"""Number of replicas of a pool that takes the overflow of another one."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.scaling.policy import (
    READ_EVERY_S,
    STALE_AFTER_S,
    WRITE_EVERY_S,
    Bounds,
    Earlier,
    EarlierPool,
    Load,
    PoolPolicy,
    Replicas,
    needed_replicas,
)

FIRST = Bounds(slots=2, least=0, most=4, spare=0, keep_alive_s=60, target_wait_s=0)
AFTER_S = 100.0
NOTHING = Load(0, 0, 0.0, idle_s=0.0)


def load(queued: int = 0, running: int = 0) -> Load:
    return Load(queued, running, queued * 10.0, idle_s=0)


def remaining_load(pool: EarlierPool, wanted: Load, target: int, ready: int, now: float) -> Load:
    return pool.remaining_load(FIRST, wanted, Replicas(target, ready), AFTER_S, now)


def test_nothing_is_left_of_what_the_replicas_of_the_first_pool_will_run() -> None:
    assert remaining_load(EarlierPool(), load(queued=8), 0, 0, now=0) == NOTHING


def test_what_is_beyond_its_most_replicas_is_left_at_once() -> None:
    remainder = remaining_load(EarlierPool(), replace(load(queued=11), queued_s=1e4), 4, 0, now=0)
    assert (remainder.queued, remainder.running, remainder.idle_s) == (3, 0, 0)
    assert remainder.queued_s == pytest.approx(1e4 * 3 / 11)


def test_a_queue_that_its_most_replicas_work_off_in_the_time_that_they_have_is_not_left() -> None:
    ten_slots_for_the_time = replace(load(queued=500), queued_s=10 * AFTER_S)
    assert remaining_load(EarlierPool(), ten_slots_for_the_time, 4, 4, now=0).queued == 2
    eight = replace(load(queued=500), queued_s=8 * AFTER_S)
    assert remaining_load(EarlierPool(), eight, 4, 4, now=0) == NOTHING


def test_what_runs_beyond_its_slots_is_left_too() -> None:
    assert remaining_load(EarlierPool(), load(running=11), 4, 4, now=0).running == 3


def test_what_the_quarantined_replicas_of_a_full_pool_would_run_is_left() -> None:
    quarantined = Replicas(target=4, ready=4, quarantined=1)
    remainder = EarlierPool().remaining_load(
        FIRST, load(queued=2, running=6), quarantined, AFTER_S, now=0
    )
    assert (remainder.queued, remainder.running) == (2, 0)
    grows = Replicas(target=3, ready=2, quarantined=1)
    assert EarlierPool().remaining_load(FIRST, load(running=4), grows, AFTER_S, now=0) == NOTHING


def test_a_replica_that_is_not_ready_in_time_leaves_its_part_until_it_is() -> None:
    pool = EarlierPool()
    for now in (0, 50, 99):
        assert remaining_load(pool, load(queued=4), 2, 0, now) == replace(NOTHING, idle_s=now)
    assert remaining_load(pool, load(queued=4), 2, 0, now=100).queued == 4
    assert remaining_load(pool, load(queued=2, running=2), 2, 1, now=110).queued == 2
    assert remaining_load(pool, load(running=4), 2, 2, now=120) == replace(NOTHING, idle_s=10)


def test_each_replica_has_its_own_time_to_start() -> None:
    pool = EarlierPool()
    remaining_load(pool, load(queued=2), 1, 0, now=0)
    remaining_load(pool, load(queued=4), 2, 0, now=50)
    remaining_load(pool, load(queued=2, running=2), 2, 1, now=60)  # the first one, after 60 s
    assert not remaining_load(pool, load(queued=2, running=2), 2, 1, now=149).queued
    assert remaining_load(pool, load(queued=2, running=2), 2, 1, now=150).queued == 2


def test_a_replica_that_is_lost_has_the_same_time_to_come_back() -> None:
    pool = EarlierPool()
    remaining_load(pool, load(running=8), 4, 4, now=0)
    remaining_load(pool, load(queued=2, running=6), 4, 3, now=500)
    assert not remaining_load(pool, load(queued=2, running=6), 4, 3, now=599).queued
    assert remaining_load(pool, load(queued=2, running=6), 4, 3, now=600).queued == 2


def test_a_replica_that_never_came_is_not_waited_for_again_until_one_comes() -> None:
    pool = EarlierPool()
    remaining_load(pool, load(queued=6), 3, 1, now=0)
    assert remaining_load(pool, load(queued=6), 3, 1, now=200).queued == 4
    assert remaining_load(pool, NOTHING, 0, 1, now=300) == replace(NOTHING, idle_s=100)
    remaining_load(pool, NOTHING, 0, 0, now=400)
    assert (
        remaining_load(pool, load(queued=6), 3, 0, now=1000).queued == 4
    )  # the first one came, and counts
    assert remaining_load(pool, load(running=6), 3, 2, now=1050).running == 2
    assert remaining_load(pool, load(running=6), 3, 3, now=1060) == replace(NOTHING, idle_s=10)
    remaining_load(pool, NOTHING, 0, 0, now=2000)
    assert not remaining_load(pool, load(queued=6), 3, 0, now=3000).queued  # it is believed again


def test_a_demand_that_varies_does_not_give_a_late_replica_more_time() -> None:
    """The pool's target does not follow each change, so the replica stays wanted."""
    pool = EarlierPool()
    for now in range(100):
        remaining_load(pool, load(queued=4 if now % 2 else 2), 2, 0, now)
    assert remaining_load(pool, load(queued=4), 2, 0, now=100).queued == 4


pools = st.builds(
    Bounds,
    slots=st.integers(1, 4),
    least=st.just(0),
    most=st.integers(1, 6),
    spare=st.integers(0, 1),
    keep_alive_s=st.just(60.0),
    target_wait_s=st.sampled_from([0.0, 5.0]),
)
loads = st.builds(
    Load,
    queued=st.integers(0, 40),
    running=st.integers(0, 40),
    # Whole milliseconds: what is less is within the errors of the divisions.
    queued_s=st.integers(0, 10**7).map(lambda ms: ms / 1000),
    idle_s=st.just(0.0),
)
steps = st.lists(st.tuples(loads, st.integers(0, 8), st.integers(0, 8), st.floats(0, 60)))


@given(pools, steps)
def test_the_replicas_that_count_and_those_of_the_rest_are_enough_for_all(
    first: Bounds, course: list[tuple[Load, int, int, float]]
) -> None:
    pool, now = EarlierPool(), 0.0
    second = replace(first, most=1000, spare=0)
    for wanted_load, target, ready, passed_s in course:
        now += passed_s
        rest = pool.remaining_load(first, wanted_load, Replicas(target, ready), AFTER_S, now)
        assert 0 <= rest.queued <= wanted_load.queued
        assert rest.running <= wanted_load.running
        assert rest.queued_s <= wanted_load.queued_s
        most = max(min(first.most, max(target, needed_replicas(first, wanted_load))), ready)
        slower = replace(first, most=1000, spare=0, target_wait_s=max(first.target_wait_s, AFTER_S))
        assert most + needed_replicas(second, rest) >= needed_replicas(slower, wanted_load)


@given(pools, loads, st.integers(0, 8))
def test_a_pool_whose_replicas_are_all_there_leaves_what_does_not_fit(
    first: Bounds, wanted: Load, target: int
) -> None:
    pool = EarlierPool()
    there = min(first.most, max(target, needed_replicas(first, wanted)))
    for now in (0.0, 1e6):
        rest = pool.remaining_load(first, wanted, Replicas(target, there), AFTER_S, now)
        slower = replace(first, most=1000, spare=0, target_wait_s=max(first.target_wait_s, AFTER_S))
        fits = needed_replicas(slower, wanted) <= first.most
        assert bool(rest.queued or rest.running) is not fits


# The policy, as Serve calls it.


class _Context:
    def __init__(self, target: int = 0, ready: int = 0) -> None:
        self.target_num_replicas, self.current_num_replicas = target, ready


SECOND = replace(FIRST, slots=1, most=8, overflow_of="spot", overflow_after_s=0.0)


def demand(sequence: int = 1, **changes: Any) -> dict[str, Any]:
    plain = {"queued": 0, "running": 0, "queued_s": 0.0, "idle_s": 0.0, "seq": sequence}
    return plain | changes


def second(**written: Any) -> PoolPolicy:
    """Policy of the pool that takes the overflow of a full one with 11 queued requests."""
    policy = PoolPolicy("scope", "demand")
    own = demand(overflow_queued=11, overflow_queued_s=220.0)
    state = {"replicas": 4, "ready": 4, "seq": 1} | written
    earlier = (Earlier("spot", FIRST, state),)
    policy.note(SECOND, demand(queued=11, queued_s=110.0), own, earlier)
    return policy


def test_it_scales_for_what_the_first_pool_leaves() -> None:
    assert second()(_Context()) == (3, {})


def test_with_no_word_of_the_first_pools_policy_that_has_no_replica() -> None:
    policy = PoolPolicy("scope", "demand")
    own = demand(overflow_queued=4, overflow_queued_s=40.0)
    policy.note(SECOND, demand(queued=4, queued_s=40.0), own, (Earlier("spot", FIRST, None),))
    assert policy(_Context()) == (4, {})


def test_it_does_not_grow_for_requests_that_it_may_not_run() -> None:
    policy = PoolPolicy("scope", "demand")
    own = demand(overflow_queued=1, overflow_queued_s=10.0)
    state = {"replicas": 4, "ready": 4, "seq": 1}
    earlier = (Earlier("spot", FIRST, state),)
    policy.note(SECOND, demand(queued=11, queued_s=110.0), own, earlier)
    assert policy(_Context()) == (1, {})


def test_it_counts_the_time_that_requests_take_on_its_own_class() -> None:
    policy = PoolPolicy("scope", "demand")
    own = demand(overflow_queued=50, overflow_queued_s=50.0)
    state = {"replicas": 4, "ready": 4, "seq": 1}
    slow = replace(SECOND, target_wait_s=10)
    policy.note(slow, demand(queued=58, queued_s=1e9), own, (Earlier("spot", FIRST, state),))
    assert policy(_Context()) == (5, {})


def test_the_last_pool_of_a_chain_scales_for_what_all_before_leave() -> None:
    policy = PoolPolicy("scope", "large")
    own = demand(overflow_queued=20, overflow_queued_s=200.0)
    full = {"replicas": 4, "ready": 4, "seq": 1}
    second = replace(SECOND, most=4)
    earlier = (Earlier("spot", FIRST, full), Earlier("demand", second, full))
    third = replace(SECOND, most=20, overflow_of="demand")
    policy.note(third, demand(queued=20, queued_s=200.0), own, earlier)
    assert policy(_Context()) == (8, {})  # 20 less 4 × 2 slots, less 4 × 1


def test_its_own_bounds_and_warm_targets_hold() -> None:
    policy = PoolPolicy("scope", "demand")
    own = demand(overflow_queued=0, overflow_queued_s=0.0, warm=2)
    earlier = (Earlier("spot", FIRST, {"replicas": 0, "ready": 0, "seq": 1}),)
    policy.note(SECOND, demand(idle_s=1e6), own, earlier)
    assert policy(_Context()) == (2, {})


def test_bounds_survive_the_store() -> None:
    assert Bounds(**asdict(SECOND)) == SECOND


def test_stale_is_longer_than_the_interval_at_which_policies_write() -> None:
    assert WRITE_EVERY_S + READ_EVERY_S < STALE_AFTER_S / 2
