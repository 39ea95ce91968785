"""fal's calls about prices."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

FLUX, WAN = "fal-ai/flux/schnell", "test/probe"
ESTIMATE = "/v1/models/pricing/estimate"


async def test_endpoints_are_free_and_counted_by_the_unit_of_the_usage(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/v1/models/pricing", params={"endpoint_id": f"{FLUX},{WAN}"})
    assert answer.status_code == 200
    prices = answer.json()
    assert [price["endpoint_id"] for price in prices["prices"]] == [FLUX, WAN]
    free = {"unit_price": 0.0, "unit": "megapixels", "currency": "USD"}
    assert prices["prices"][0] == {"endpoint_id": FLUX, **free}
    assert (prices["next_cursor"], prices["has_more"]) == (None, False)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("?endpoint_id=no/such", 404),
        ("?endpoint_id=" + ",".join(map(str, range(51))), 422),
    ],
)
async def test_what_is_not_there_has_no_price(
    client: httpx.AsyncClient, query: str, status: int
) -> None:
    assert (await client.get(f"/v1/models/pricing{query}")).status_code == status


@pytest.mark.parametrize(
    ("kind", "quantity"),
    [("historical_api_price", "call_quantity"), ("unit_price", "unit_quantity")],
)
async def test_an_estimate_comes_to_nothing(
    client: httpx.AsyncClient, kind: str, quantity: str
) -> None:
    body = {"estimate_type": kind, "endpoints": {FLUX: {quantity: 100}}}
    answer = await client.post(ESTIMATE, json=body)
    assert answer.json() == {"estimate_type": kind, "total_cost": 0.0, "currency": "USD"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"estimate_type": "guess", "endpoints": {FLUX: {"unit_quantity": 1}}}, "estimate_type"),
        ({"estimate_type": "unit_price", "endpoints": {}}, "endpoints"),
        ({"estimate_type": "unit_price", "endpoints": {FLUX: {"call_quantity": 1}}}, "endpoints"),
        ({"estimate_type": "unit_price", "endpoints": {FLUX: {"unit_quantity": 0}}}, "endpoints"),
        ({"estimate_type": "unit_price", "endpoints": {FLUX: 7}}, "endpoints"),
    ],
)
async def test_a_wrong_estimate_names_its_field(
    client: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await client.post(ESTIMATE, json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]


async def test_an_estimate_for_an_unknown_endpoint_is_not_found(client: httpx.AsyncClient) -> None:
    body = {"estimate_type": "unit_price", "endpoints": {"no/such": {"unit_quantity": 1}}}
    assert (await client.post(ESTIMATE, json=body)).status_code == 404
