"""Which replicas hold which weights, and how many replicas warm targets need."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.operations import WeightsLevel
from serve_app.scaling.warm import (
    Holder,
    Kept,
    PoolTarget,
    assign_targets,
    combine_targets,
    replicas_for,
)

HOT, HOST, DISK = WeightsLevel

names = st.sampled_from(["a", "b", "c"])
places = st.frozensets(names)
targets = st.lists(
    st.builds(PoolTarget, names, st.integers(1, 4), st.sampled_from(WeightsLevel)), max_size=5
)
kept = st.lists(st.tuples(names, st.sampled_from(WeightsLevel)), max_size=3).map(tuple)
holders = st.lists(
    st.builds(
        Holder, st.text("xyz", min_size=1), places, places, places, assigned=kept, not_kept=places
    ),
    max_size=5,
    unique_by=lambda holder: holder.replica_id,
)


def test_a_target_goes_to_replicas_that_have_the_weights_already() -> None:
    have = [Holder("1"), Holder("2", host=frozenset({"a"})), Holder("3", hot=frozenset({"a"}))]
    assert assign_targets([PoolTarget("a", 1, HOT)], have)["3"] == (("a", HOT),)
    assert assign_targets([PoolTarget("a", 2, HOT)], have)["2"] == (("a", HOT),)


def test_targets_are_spread_over_replicas() -> None:
    kept = assign_targets([PoolTarget(name, 1, HOT) for name in "abc"], [Holder(n) for n in "123"])
    assert sorted(map(len, kept.values())) == [1, 1, 1]


def test_a_target_stays_where_it_was_when_another_replica_loads_the_weights_for_a_request() -> None:
    stays = Holder("1", hot=frozenset({"a"}), assigned=(("a", HOT),))
    other = Holder("0", hot=frozenset({"a"}))
    assert assign_targets([PoolTarget("a", 1, HOT)], [stays, other]) == {
        "0": (),
        "1": (("a", HOT),),
    }


def test_a_target_moves_to_a_replica_that_has_room() -> None:
    full = Holder("1", assigned=(("a", HOT),), not_kept=frozenset({"a"}))
    assert assign_targets([PoolTarget("a", 1, HOT)], [full, Holder("2")])["2"] == (("a", HOT),)
    assert assign_targets([PoolTarget("a", 1, HOT)], [full])["1"] == (("a", HOT),)


def test_of_several_targets_the_most_replicas_and_the_fastest_level_count() -> None:
    several = [PoolTarget("a", 3, DISK), PoolTarget("a", 1, HOT), PoolTarget("", 2, HOT)]
    assert combine_targets(several) == [PoolTarget("", 2, HOT), PoolTarget("a", 3, HOT)]


def test_weights_on_disk_need_no_replica() -> None:
    assert replicas_for([PoolTarget("a", 3, DISK), PoolTarget("b", 2, HOST)]) == 2
    assert replicas_for([]) == 0


@given(targets, holders)
def test_each_target_gets_its_replicas_if_there_are_so_many(
    wanted: list[PoolTarget], have: list[Holder]
) -> None:
    kept = assign_targets(wanted, have)
    assert kept.keys() == {holder.replica_id for holder in have}
    counts = Counter(pair for pairs in kept.values() for pair in pairs)
    assert counts == {
        (target.endpoint, target.level): min(target.replicas, len(have))
        for target in combine_targets(wanted)
        if have
    }


@pytest.mark.long
@given(targets, holders)
def test_a_decision_that_is_carried_out_is_final(
    wanted: list[PoolTarget], have: list[Holder]
) -> None:
    """Otherwise replicas would load and drop weights in turn."""
    kept = assign_targets(wanted, have)
    after = [carried_out(holder, kept[holder.replica_id]) for holder in have]
    assert assign_targets(wanted, after) == kept


def carried_out(holder: Holder, kept: Kept) -> Holder:
    hot = holder.hot | {endpoint for endpoint, _ in kept}
    return replace(holder, hot=hot, assigned=kept, not_kept=frozenset())


@pytest.mark.long
@given(targets, holders)
def test_the_order_of_targets_and_replicas_changes_nothing(
    wanted: list[PoolTarget], have: list[Holder]
) -> None:
    """Any ingress process may decide."""
    assert assign_targets(wanted[::-1], have[::-1]) == assign_targets(wanted, have)
