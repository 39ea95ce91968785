"""GPU hours paid, busy and idle, against fal's list prices."""

from __future__ import annotations

from decimal import Decimal

from serve_app.domain.billing.report import MadeUnits, ReplicaHours
from serve_app.settings import PoolConfig
from tests.ingress.house import House, build_house

SCHNELL = "fal-ai/flux/schnell"
SETTINGS = {
    "gpu_hour_costs": {"L4": "0.5"},
    "cost_currency": "EUR",
    "fal_prices": {SCHNELL: {"unit": "megapixel", "amount": "0.01", "currency": "EUR"}},
}
HOUR = Decimal(3600)


def fill_costs(house: House) -> None:
    costs = house.queue.costs
    costs.hours = [
        ReplicaHours("big", "L4", 10 * HOUR, 4 * HOUR),
        ReplicaHours("studio", "", HOUR, Decimal(0)),
    ]
    costs.units = [
        MadeUnits(SCHNELL, 3, 3, 300, Decimal(250), Decimal(90)),
        MadeUnits("acme/own", 9, 9, 9, Decimal(9), Decimal(9)),
    ]


async def test_hours_and_costs_are_compared_with_fals(house: House) -> None:
    pools = {"big": PoolConfig(families=("flux",), devices_per_replica=2)}
    async with build_house(pools=pools, **SETTINGS) as own, own.client() as client:
        fill_costs(own)
        body = (await client.get("/v1/usage/report")).json()
    big, studio = body["pools"]
    assert (big["paid_hours"], big["busy_hours"], big["idle_hours"]) == (20.0, 8.0, 12.0)
    assert (big["cost"], studio["cost"]) == (10.0, None)
    assert (body["paid_hours"], body["cost"], body["currency"]) == (21.0, 10.0, "EUR")
    assert [endpoint["cost"] for endpoint in body["endpoints"]] == [3.0, None]
    assert body["fal_cost"] == 3.0


async def test_the_report_is_for_operators(house: House) -> None:
    async with house.client(house.weak_key) as client:
        assert (await client.get("/v1/usage/report")).status_code == 403


async def test_without_settings_there_are_hours_and_no_costs(house: House) -> None:
    fill_costs(house)
    async with house.client() as client:
        body = (await client.get("/v1/usage/report")).json()
    assert (body["cost"], body["fal_cost"], body["paid_hours"]) == (0.0, 0.0, 11.0)
