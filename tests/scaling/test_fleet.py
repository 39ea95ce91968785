"""The simulation of many GPUs loses nothing and invents nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fleet.cell import Cell, Shape
from benchmarks.fleet.costs import Cost, Costs
from benchmarks.fleet.tenants import loads, place_by_hash, place_by_size, sizes, split_large
from benchmarks.fleet.weights import Delivery, deliver

SECONDS = 2.0


@settings(max_examples=15, deadline=None)
@given(
    gpus=st.integers(1, 40),
    ingresses=st.integers(1, 3),
    load=st.floats(0, 1.5),
    request_s=st.floats(0.05, 10),
    seed=st.integers(0, 99),
)
def test_every_request_is_somewhere_and_no_part_works_more_than_it_can(
    gpus: int, ingresses: int, load: float, request_s: float, seed: int
) -> None:
    shape = Shape(gpus, ingresses, 2, slots=2, request_s=request_s, load=min(load, 1.0))
    result = Cell(shape, Costs(), seed).run(SECONDS)
    come = result.submitted + result.running_at_start
    assert come == result.ended + result.queued + result.running + result.in_control_plane
    assert result.running <= gpus * shape.slots
    assert 0 <= result.slot_use <= 1 + 1e-9
    for station in result.stations.values():
        assert station.come == station.done + station.inside
        assert 0 <= station.use(SECONDS) <= 1 + 1e-9


def test_a_part_that_is_too_dear_is_found_full_and_the_queue_grows() -> None:
    shape = Shape(50, ingresses=2, database_cores=1)
    assert Cell(shape, Costs()).run(SECONDS).keeps_up
    full = Cell(shape, Costs(submit=Cost(0.1, 50.0))).run(SECONDS)
    assert not full.keeps_up
    assert full.stations["database"].inside > 10


def test_the_use_of_the_database_is_what_its_work_costs() -> None:
    shape = Shape(100, ingresses=8, database_cores=4, report_s=1.0, followed=0.0, follows=0)
    costs = Costs()
    result = Cell(shape, costs).run(10.0)
    a_request = costs.submit.database + costs.lease.database + costs.finish.database
    a_second = shape.requests_per_s * a_request + 100 * costs.report.database
    expected = (a_second + shape.ingresses * costs.chores.database) / 1000 / 4
    assert result.stations["database"].use(10.0) == pytest.approx(expected, rel=0.1)


@given(st.integers(1, 60), st.integers(1, 12), st.floats(1, 1e4))
def test_tenants_are_in_cells_whole_and_no_part_of_a_divided_one_is_large(
    tenants: int, cells: int, total: float
) -> None:
    rates = sizes(tenants, total)
    for parts in (rates, split_large(rates, cells)):
        for place in (place_by_hash, place_by_size):
            assert sum(loads(parts, place(parts, cells), cells)) == pytest.approx(total)
    assert max(split_large(rates, cells)) <= total / cells / 2 * (1 + 1e-9)
    assert max(loads(parts, place_by_size(parts, cells), cells)) <= 1.5 * total / cells + 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_every_node_gets_all_weights_once_and_no_line_carries_more_than_it_can(
    nodes: int, peers: int, same_order: bool, seed: int
) -> None:
    way = Delivery(nodes, peers=peers, same_order=same_order)
    delivery = deliver(way, seed)
    assert delivery.hub_gb + delivery.peer_gb == pytest.approx(nodes * way.gb, rel=1e-6)
    assert delivery.hub_gb <= way.hub_rate * delivery.seconds + 1e-6
    assert delivery.peer_gb <= nodes * way.peer_rate * delivery.seconds + 1e-6
    assert delivery.most_sent_at_once <= peers
    if not peers:
        assert delivery.peer_gb == 0


def test_nodes_that_fetch_in_random_order_spare_the_hub() -> None:
    same, shuffled = (deliver(Delivery(30, same_order=order)) for order in (True, False))
    assert same.peer_gb == 0  # nobody has a file before the others
    assert shuffled.hub_gb < same.hub_gb / 3
    assert shuffled.seconds < same.seconds / 3
