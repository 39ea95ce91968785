"""Number of replicas that a pool gets."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle

from serve_app.scaling import policy
from serve_app.scaling.policy import Bounds, Load, PoolPolicy, Scaler, needed_replicas

POOL = Bounds(slots=2, least=0, most=4, spare=0, keep_alive_s=60, target_wait_s=0)
IDLE = Load(queued=0, running=0, queued_s=0, idle_s=1000)

loads = st.builds(
    Load,
    queued=st.integers(0, 100),
    running=st.integers(0, 100),
    queued_s=st.floats(0, 1e4),
    idle_s=st.floats(0, 1e6),
    warm=st.integers(0, 10),
    quarantined=st.integers(0, 10),
)
bounds = st.builds(
    Bounds,
    slots=st.integers(1, 16),
    least=st.integers(0, 3),
    most=st.integers(3, 8),
    spare=st.integers(0, 2),
    keep_alive_s=st.floats(0, 600),
    target_wait_s=st.floats(0, 60),
)


def load(queued: int = 0, running: int = 0, queued_s: float = 1e9) -> Load:
    return Load(queued, running, queued_s, idle_s=0)


def over(scaler: Scaler, seconds: range, load: Load, current: int) -> int:
    """The target after the pool had this load for these seconds."""
    for now in seconds:
        current = scaler.target(load, current, now)
    return current


def test_a_pool_at_zero_gets_a_replica_for_its_first_request() -> None:
    assert Scaler(POOL).target(load(queued=1), 0, now=0) == 1


def test_a_pool_grows_at_once_to_as_many_replicas_as_its_requests_fill() -> None:
    assert Scaler(POOL).target(load(queued=3, running=2), 1, now=0) == 3


def test_requests_that_one_slot_starts_in_time_need_one() -> None:
    pool = replace(POOL, slots=4, most=9, target_wait_s=5)
    assert needed_replicas(pool, load(queued=20, queued_s=20)) == 1
    assert needed_replicas(pool, load(queued=20, queued_s=40)) == 2
    assert needed_replicas(pool, load(queued=20, queued_s=2000)) == 5  # a slot for each


def test_a_spare_replica_stands_by_only_while_there_is_demand() -> None:
    pool = replace(POOL, spare=1)
    assert needed_replicas(pool, load(queued=2)) == 2
    assert needed_replicas(pool, IDLE) == 0


def test_an_idle_pool_has_the_replicas_that_warm_targets_need_within_its_bounds() -> None:
    assert needed_replicas(POOL, replace(IDLE, warm=2)) == 2
    assert needed_replicas(POOL, replace(load(running=2), warm=3)) == 3
    assert needed_replicas(POOL, replace(IDLE, warm=9)) == 4
    assert needed_replicas(replace(POOL, least=3), replace(IDLE, warm=2)) == 3


def test_a_quarantined_replica_is_no_room_for_requests() -> None:
    full = load(running=2)
    assert needed_replicas(POOL, full) == 1
    assert needed_replicas(POOL, replace(full, quarantined=1)) == 2
    assert needed_replicas(POOL, replace(full, quarantined=9)) == 4
    assert needed_replicas(POOL, replace(IDLE, quarantined=1)) == 0


def test_a_pool_shrinks_when_its_warm_targets_end() -> None:
    scaler = Scaler(POOL)
    assert scaler.target(replace(IDLE, warm=3), 0, now=0) == 3
    assert over(scaler, range(1, 200), replace(IDLE, warm=3), 3) == 3
    assert scaler.target(IDLE, 3, now=200) == 0


def test_an_idle_pool_keeps_its_last_replica_until_keep_alive_has_passed() -> None:
    scaler = Scaler(POOL)
    over(scaler, range(100), load(running=1), 1)
    assert scaler.target(replace(IDLE, idle_s=59), 1, now=159) == 1
    assert scaler.target(replace(IDLE, idle_s=60), 1, now=160) == 0


def test_a_pool_shrinks_while_requests_run() -> None:
    scaler = Scaler(POOL)
    assert over(scaler, range(60), load(running=8), 4) == 4
    assert over(scaler, range(60, 115), load(running=1), 4) == 4
    assert over(scaler, range(115, 125), load(running=1), 4) == 1


def test_a_short_peak_does_not_keep_replicas() -> None:
    """What was enough for 95 % of the time is enough."""
    scaler = Scaler(POOL)
    over(scaler, range(60), load(running=2), 1)
    grown = scaler.target(load(running=8), 1, now=60)
    assert grown == 4
    assert over(scaler, range(61, 122), load(running=2), grown) == 1


def test_a_replica_that_was_just_started_is_not_stopped_before_it_is_ready() -> None:
    scaler = Scaler(replace(POOL, keep_alive_s=300))
    over(scaler, range(300), load(running=2), 1)
    grown = scaler.target(load(running=2, queued=1), 1, now=300)
    assert grown == 2
    assert over(scaler, range(301, 359), load(running=2), grown) == 2
    assert over(scaler, range(359, 362), load(running=2), grown) == 1


def test_a_policy_that_has_just_started_does_not_shrink_what_it_has_not_watched() -> None:
    scaler = Scaler(POOL)
    assert over(scaler, range(60), load(running=1), 4) == 4
    assert over(scaler, range(60, 62), load(running=1), 4) == 1


def test_nor_does_one_that_heard_nothing_for_a_while() -> None:
    scaler = Scaler(POOL)
    over(scaler, range(100), load(running=1), 1)
    assert over(scaler, range(200, 259), load(running=1), 4) == 4


@given(bounds, st.lists(st.tuples(loads, st.floats(0, 100)), min_size=1), st.integers(0, 8))
def test_a_pool_stays_within_its_bounds_and_is_never_smaller_than_what_is_needed(
    pool: Bounds, course: list[tuple[Load, float]], current: int
) -> None:
    scaler, now = Scaler(pool), 0.0
    for queue_load, passed_s in course:
        now += passed_s
        target = scaler.target(queue_load, current, now)
        assert needed_replicas(pool, queue_load) <= target <= max(pool.most, current)
        assert target >= pool.least
        current = target


class _Context:
    target_num_replicas = current_num_replicas = 3


def test_the_target_is_kept_while_no_demand_is_known() -> None:
    pool = PoolPolicy("scope", "studio")
    # Serve calls the policy before the ingress has written anything and before Ray's KV exists.
    assert pool(_Context()) == (3, {})


def test_a_pool_keeps_to_its_bounds_before_there_is_a_demand() -> None:
    pool = PoolPolicy("scope", "studio")
    pool.note(replace(POOL, least=5, most=9), None)
    assert pool(_Context()) == (5, {})
    pool.note(replace(POOL, least=1, most=2), None)
    assert pool(_Context()) == (2, {})


def test_the_demand_says_what_warm_targets_need() -> None:
    pool = PoolPolicy("scope", "studio")
    demand = {"queued": 0, "running": 0, "queued_s": 0, "idle_s": 99, "seq": 1, "warm": 4}
    pool.note(POOL, demand)
    assert pool(_Context()) == (4, {})


def test_a_canary_that_has_returned_has_no_replica_whatever_its_bounds() -> None:
    pool = PoolPolicy("scope", "next")
    demand = {"queued": 0, "running": 2, "queued_s": 0, "idle_s": 0, "seq": 1, "returned": True}
    pool.note(replace(POOL, least=1), demand)
    assert pool(_Context()) == (0, {})
    pool.note(None, {**demand, "returned": False, "seq": 2})
    assert pool(_Context())[0] >= 1


def test_the_demand_says_which_replicas_do_not_count() -> None:
    pool = PoolPolicy("scope", "studio")
    demand = {"queued": 1, "running": 6, "queued_s": 60, "idle_s": 0, "seq": 1, "quarantined": 1}
    pool.note(replace(POOL, most=9), demand)
    assert pool(_Context()) == (5, {})


def test_changed_bounds_are_in_force_without_another_policy() -> None:
    pool = PoolPolicy("scope", "studio")
    demand = {"queued": 8, "running": 0, "queued_s": 60, "idle_s": 0, "seq": 1}
    pool.note(POOL, demand)
    assert pool(_Context()) == (4, {})
    pool.note(replace(POOL, most=2), demand)
    assert pool(_Context()) == (2, {})
    pool.note(replace(POOL, most=7, slots=1), demand)
    assert pool(_Context()) == (7, {})


def test_a_policy_that_serve_has_replaced_reads_and_writes_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy, "READ_EVERY_S", 0.01)
    pool = PoolPolicy("scope", "studio")
    pool(_Context())
    reader = pool._reader
    assert reader is not None
    monkeypatch.setattr(policy, "STALE_AFTER_S", 0.05)
    reader.join(60)
    assert not reader.is_alive()
    monkeypatch.undo()
    pool(_Context())  # it was only not called for a while
    assert pool._reader is not None
    assert pool._reader is not reader
    pool._called_at = float("-inf")


def test_the_policy_can_be_pickled_by_value_as_serve_does() -> None:
    cloudpickle.register_pickle_by_value(policy)
    try:
        revived = cloudpickle.loads(cloudpickle.dumps(PoolPolicy))
    finally:
        cloudpickle.unregister_pickle_by_value(policy)
    assert callable(revived(scope="s", pool="p"))
