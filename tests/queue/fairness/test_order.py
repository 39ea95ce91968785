"""Fairness as a property: whatever is submitted, no tenant gets much less than its share of the
slots.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve_app.domain.request import Priority
from serve_app.queue.fairness.fair_queue import HEAD_START_S, HOST_LEAD_S, HOT_LEAD_S
from tests.fakes.lane_order import LaneClock, QueuedRequest, charge, in_order, pool_time, ranked_at

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)


def make_request(
    number: int, tenant: str, expected_s: float = 1.0, **changes: object
) -> QueuedRequest:
    plain = QueuedRequest(f"{tenant}-{number}", tenant, "flux", BEGIN, number, expected_s)
    return replace(plain, **changes)


@dataclass
class Served:
    """Time that a pool of ``slots`` gives each tenant, when every tenant has more queued than the
    pool can do.
    """

    weights: dict[str, float]
    costs: dict[str, tuple[float, float]]  # expected and true seconds of each request
    slots: int
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, until_s: float) -> None:
        lanes = {tenant: LaneClock(weight) for tenant, weight in self.weights.items()}
        self.seconds = dict.fromkeys(lanes, 0.0)
        free = [(0.0, slot, "") for slot in range(self.slots)]
        number = 0
        while free[0][0] < until_s:
            now, slot, ended = heapq.heappop(free)
            if ended:
                expected, true = self.costs[ended]
                lanes[ended].vtime += (true - expected) / lanes[ended].weight
            waiting = [
                make_request(number + n, lane, self.costs[lane][0]) for n, lane in enumerate(lanes)
            ]
            start = in_order(lanes, waiting)[0]
            tenant = start.queued.tenant
            charge(lanes[tenant], start, pool_time(lanes.values()))
            true = self.costs[tenant][1]
            self.seconds[tenant] += min(true, until_s - now)
            heapq.heappush(free, (now + true, slot, tenant))
            number += len(lanes)


COSTS = st.tuples(st.floats(0.5, 8.0), st.floats(0.5, 8.0))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.5, 1.0, 3.0]), COSTS), min_size=2, max_size=5),
    st.integers(1, 4),
)
# Every request is expected to take twice its true time: the excess is refunded and not lost.
@example([(0.5, (1.0, 1.0)), (0.5, (2.0, 1.0))], 3)
def test_everybody_gets_their_share_of_the_time_whatever_was_expected(
    tenants: list[tuple[float, tuple[float, float]]], slots: int
) -> None:
    weights = {f"t{n}": weight for n, (weight, _) in enumerate(tenants)}
    costs = {f"t{n}": cost for n, (_, cost) in enumerate(tenants)}
    served = Served(weights, costs, slots)
    until_s = 600.0
    served.run(until_s)
    total = sum(weights.values())
    for tenant, weight in weights.items():
        share = slots * until_s * weight / total
        # At most one request of each slot and of each tenant comes before a tenant's turn. A wrong
        # expectation may cost as much again until it is corrected.
        most_s = max(max(pair) for pair in costs.values())
        assert served.seconds[tenant] >= 0.8 * share - 2 * most_s * (slots + len(weights))


@given(st.integers(1, 200), st.floats(0.1, 10.0))
def test_a_single_request_is_next_behind_any_queue_of_another(many: int, expected: float) -> None:
    lanes = {"ann": LaneClock(), "bob": LaneClock()}
    waiting = [make_request(n, "ann", expected) for n in range(many)]
    first = in_order(lanes, waiting)[0]
    charge(lanes["ann"], first, 0.0)
    order = in_order(lanes, [*waiting[1:], make_request(many, "bob")])
    assert order[0].queued.tenant == "bob"


@given(st.lists(st.sampled_from(["ann", "bob", "eve"]), max_size=30))
def test_an_order_loses_nothing_and_keeps_to_the_rank_within_a_tenant(owners: list[str]) -> None:
    waiting = [make_request(n, owner) for n, owner in enumerate(owners)]
    order = in_order({owner: LaneClock() for owner in owners}, waiting)
    assert sorted(start.queued.id for start in order) == sorted(request.id for request in waiting)
    for owner in set(owners):
        places = [start.queued.place for start in order if start.queued.tenant == owner]
        assert places == sorted(places)


def test_a_low_request_waits_for_no_normal_one_that_comes_later_than_its_head_start() -> None:
    later = BEGIN + timedelta(seconds=HEAD_START_S)
    assert ranked_at(BEGIN, Priority.LOW) == ranked_at(later, Priority.NORMAL)
    assert ranked_at(BEGIN, Priority.HIGH) < ranked_at(BEGIN, Priority.NORMAL)


def test_what_is_cold_is_overtaken_only_by_what_came_soon_after_it() -> None:
    soon = make_request(
        1, "ann", endpoint="hot", ranked_at=BEGIN + timedelta(seconds=HOT_LEAD_S - 1)
    )
    late = make_request(
        2, "ann", endpoint="hot", ranked_at=BEGIN + timedelta(seconds=HOT_LEAD_S + 1)
    )
    order = in_order({"ann": LaneClock()}, [make_request(0, "ann"), soon, late], {"hot"}, BEGIN)
    assert [start.queued.place for start in order] == [1, 0, 2]


def test_what_is_in_host_memory_goes_before_cold_requests_and_behind_hot_ones() -> None:
    cold = make_request(0, "ann")
    late = make_request(
        1, "ann", endpoint="host", ranked_at=BEGIN + timedelta(seconds=HOST_LEAD_S + 1)
    )
    soon = make_request(
        2, "ann", endpoint="host", ranked_at=BEGIN + timedelta(seconds=HOST_LEAD_S - 1)
    )
    hot = make_request(3, "ann", endpoint="hot", ranked_at=BEGIN + timedelta(seconds=HOST_LEAD_S))
    waiting = [cold, late, soon, hot]
    order = in_order({"ann": LaneClock()}, waiting, {"hot"}, BEGIN, {"host"})
    assert [start.queued.place for start in order] == [3, 2, 0, 1]
