"""Chains of pools over simulated hours: what overflow costs and saves."""

from __future__ import annotations

from benchmarks.overflow import (
    MARKETS,
    PLENTY,
    ChainSimulation,
    Market,
    parse_arguments,
    spot_chains,
)
from benchmarks.scaling import make_requests

GIVEN = parse_arguments(["--after", "180"])
REQUESTS = make_requests("mixed", mean_s=10.0, length_s=2 * 3600)
CHAIN = "spot, on-demand after 180 s"


def make_simulation(market: Market, chain: str = CHAIN) -> ChainSimulation:
    return ChainSimulation(spot_chains(GIVEN, market)[chain], REQUESTS)


def test_where_spot_nodes_are_always_there_hardly_another_one_is_used() -> None:
    result = make_simulation(MARKETS["always"]).run()
    assert result.hours["on-demand"] < 0.1 * result.hours["spot"]
    alone = make_simulation(MARKETS["always"], "on-demand alone").run()
    assert result.cost < 0.6 * alone.cost


def test_where_there_are_none_the_other_pool_serves_all_and_waits_little_longer() -> None:
    result = make_simulation(MARKETS["never"]).run()
    alone = make_simulation(MARKETS["never"], "on-demand alone").run()
    assert result.hours["spot"] == 0
    assert len(result.waits_s) == len(REQUESTS.arrivals)
    assert result.wait_s(0.99) < alone.wait_s(0.99) + 180 + 60


def test_while_spot_nodes_are_lost_the_waits_stay_far_below_those_of_spot_alone() -> None:
    def market(now: float) -> int:
        return 0 if 3000 < now < 6000 else PLENTY

    result, alone = make_simulation(market).run(), make_simulation(market, "spot alone").run()
    assert result.wait_s(0.99) < 0.25 * alone.wait_s(0.99)
    assert result.hours["on-demand"] > 0
    assert result.hours["spot"] > 0
