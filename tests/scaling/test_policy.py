"""Number of replicas that a pool gets."""

from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle

from serve_app.scaling import policy
from serve_app.scaling.policy import Bounds, PoolPolicy, target_replicas

POOL = Bounds(slots=2, least=0, most=4, spare=0, keep_alive_s=60)

counts = st.integers(min_value=0, max_value=100)
bounds = st.builds(
    Bounds,
    slots=st.integers(1, 16),
    least=st.integers(0, 3),
    most=st.integers(3, 8),
    spare=st.integers(0, 2),
    keep_alive_s=st.floats(0, 600),
)


def test_a_pool_at_zero_gets_a_replica_for_its_first_request() -> None:
    assert target_replicas(POOL, queued=1, running=0, idle_s=0, current=0) == 1


def test_a_pool_gets_as_many_replicas_as_its_requests_fill() -> None:
    assert target_replicas(POOL, queued=3, running=2, idle_s=0, current=1) == 3


def test_a_spare_replica_stands_by_only_while_there_is_demand() -> None:
    pool = Bounds(slots=2, least=0, most=4, spare=1, keep_alive_s=60)
    assert target_replicas(pool, queued=2, running=0, idle_s=0, current=0) == 2
    assert target_replicas(pool, queued=0, running=0, idle_s=61, current=2) == 0


def test_an_idle_pool_keeps_its_replicas_until_keep_alive_has_passed() -> None:
    assert target_replicas(POOL, queued=0, running=0, idle_s=59, current=3) == 3
    assert target_replicas(POOL, queued=0, running=0, idle_s=60, current=3) == 0


@given(bounds, counts, st.integers(1, 100), st.floats(0, 1e6), st.integers(0, 12))
def test_a_pool_that_holds_leases_never_shrinks(
    pool: Bounds, queued: int, running: int, idle_s: float, current: int
) -> None:
    target = target_replicas(pool, queued=queued, running=running, idle_s=idle_s, current=current)
    assert target >= current


@given(bounds, counts, counts, st.floats(0, 1e6), st.integers(0, 8))
def test_a_pool_grows_only_within_its_bounds(
    pool: Bounds, queued: int, running: int, idle_s: float, current: int
) -> None:
    target = target_replicas(pool, queued=queued, running=running, idle_s=idle_s, current=current)
    assert target >= min(pool.least, pool.most)
    assert target <= max(pool.most, current)


class _Context:
    target_num_replicas = 3


def test_the_target_is_kept_while_no_demand_is_known() -> None:
    pool = PoolPolicy("scope", "studio", slots=1, least=0, most=9, spare=0, keep_alive_s=1)
    # Serve calls the policy before the ingress has written a demand and before Ray's KV exists.
    assert pool(_Context()) == (3, {})


def test_the_policy_can_be_pickled_by_value_as_serve_does() -> None:
    cloudpickle.register_pickle_by_value(policy)
    try:
        revived = cloudpickle.loads(cloudpickle.dumps(PoolPolicy))
    finally:
        cloudpickle.unregister_pickle_by_value(policy)
    pool = revived(scope="s", pool="p", slots=1, least=0, most=1, spare=0, keep_alive_s=1)
    assert callable(pool)
