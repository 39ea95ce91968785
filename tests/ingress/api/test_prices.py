"""Prices of the settings: in lists and estimates, on results, and in the usage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.ingress.house import House, build_house

PROBE, SCHNELL = "test/probe", "fal-ai/flux/schnell"
PRICES = {
    PROBE: {"unit": "request", "amount": "0.02", "currency": "EUR"},
    SCHNELL: {"unit": "megapixel", "amount": 0.003},
}
HD = {"width": 1920, "height": 1080}
DEARER = {PROBE: {"unit": "request", "amount": 1, "currency": "EUR"}}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(prices=PRICES) as house:
        yield house


async def summary(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/v1/models/usage", params={"expand": "summary"})
    return list(answer.json()["summary"])


async def test_prices_are_listed(house: House) -> None:
    async with house.client() as client:
        answer = await client.get("/v1/models/pricing", params={"endpoint_id": [PROBE, SCHNELL]})
    probe, schnell = answer.json()["prices"]
    assert probe == {
        "endpoint_id": PROBE,
        "unit_price": 0.02,
        "unit": "requests",
        "currency": "EUR",
    }
    assert (schnell["unit"], schnell["unit_price"]) == ("megapixels", 0.003)


async def test_a_result_says_what_it_was_billed(house: House) -> None:
    async with house.client() as client:
        answer = await client.post(f"/{PROBE}", json={})
        assert answer.headers["x-fal-billable-units"] == "1"
        (line,) = await summary(client)
    shown = {name: line[name] for name in ("unit", "quantity", "unit_price", "cost", "currency")}
    assert shown == {
        "unit": "requests",
        "quantity": 1.0,
        "unit_price": 0.02,
        "cost": 0.02,
        "currency": "EUR",
    }


async def test_a_result_without_a_price_has_no_billable_units() -> None:
    async with build_house() as free, free.client() as client:
        answer = await client.post(f"/{PROBE}", json={})
    assert "x-fal-billable-units" not in answer.headers


async def test_a_changed_price_holds_for_new_requests_only(house: House) -> None:
    async with house.client() as client:
        await client.post(f"/{PROBE}", json={})
        changed = house.services.config.with_live({"prices": DEARER, "gpus": 0})
        house.services.config = changed
        await client.post(f"/{PROBE}", json={})
        lines = await summary(client)
    assert sorted(line["cost"] for line in lines) == [0.02, 1.0]


@pytest.mark.parametrize(
    ("kind", "quantity", "cost"),
    [
        ("unit_price", {"unit_quantity": 10}, 0.2),
        ("historical_api_price", {"call_quantity": 3}, 0.06),
    ],
)
async def test_costs_are_estimated_before_a_call(
    house: House, kind: str, quantity: dict[str, int], cost: float
) -> None:
    body = {"estimate_type": kind, "endpoints": {PROBE: quantity}}
    async with house.client() as client:
        await client.post(f"/{PROBE}", json={})
        answer = await client.post("/v1/models/pricing/estimate", json=body)
    assert (answer.json()["total_cost"], answer.json()["currency"]) == (cost, "EUR")


async def test_prices_in_two_currencies_are_not_added_up(house: House) -> None:
    endpoints = {endpoint: {"unit_quantity": 1} for endpoint in PRICES}
    body = {"estimate_type": "unit_price", "endpoints": endpoints}
    async with house.client() as client:
        answer = await client.post("/v1/models/pricing/estimate", json=body)
    assert answer.status_code == 422


async def test_an_estimate_of_a_request_says_its_cost(house: House) -> None:
    planned = {
        "endpoint_id": SCHNELL,
        "input": {
            "prompt": "a fox",
            "num_images": 2,
            "image_size": {"width": 1920, "height": 1080},
        },
    }
    async with house.client() as client:
        answer = await client.post("/v1/estimate", json=planned)
        free = await client.post("/v1/estimate", json={"endpoint_id": "test/deep/path/probe"})
    price = answer.json()["price"]
    assert (price["unit"], price["quantity"], price["cost"]) == ("megapixels", 4.0, 0.012)
    assert "price" not in free.json()


async def test_the_description_for_language_models_names_the_price(house: House) -> None:
    async with house.client() as client:
        text = (await client.get(f"/models/{SCHNELL}/llms.txt")).text
    assert "0.003 USD per megapixel" in text


@pytest.mark.parametrize("number", [10**400, 1e308], ids=["whole", "real"])
async def test_a_cost_that_no_number_holds_is_refused(number: float) -> None:
    async with build_house(prices={PROBE: {"unit": "request", "amount": 10}}) as house:
        async with house.client() as client:
            body = {
                "estimate_type": "unit_price",
                "endpoints": {PROBE: {"unit_quantity": number}},
            }
            answer = await client.post("/v1/models/pricing/estimate", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"][0]["loc"] == ["body", "endpoints"]
