"""Rates and budgets, as clients of each protocol see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any

import pytest

from serve_app.domain.errors import BudgetExhausted, RateLimited
from serve_app.ingress.realtime.messages import LATER, REFUSED, closing
from serve_app.settings import BudgetConfig, TenantLimits
from tests.ingress.house import House, build_house
from tests.ingress.socket import connect

PROBE, FLUX = "test/probe", "fal-ai/flux/schnell"
PRICES = {endpoint_id: {"unit": "request", "amount": 1} for endpoint_id in (PROBE, FLUX)}
DOORS = {
    "run": (f"/{PROBE}", {}),
    "queue": (f"/queue/{PROBE}", {}),
    "replicate": (f"/replicate/v1/models/{PROBE}/predictions", {"input": {}}),
    "openai": ("/openai/v1/images/generations", {"model": FLUX, "prompt": "a fox"}),
}


def limits(**limits: Any) -> Mapping[str, TenantLimits]:
    return {"default": TenantLimits(**limits)}


@pytest.fixture
async def rate_limited_house() -> AsyncIterator[House]:
    async with build_house(tenant_limits=limits(requests_per_minute=60, requests_burst=1)) as house:
        yield house


@pytest.fixture
async def budget_house() -> AsyncIterator[House]:
    budget = BudgetConfig(amount=Decimal(1))
    async with build_house(tenant_limits=limits(budget=budget), prices=PRICES) as house:
        yield house


@pytest.mark.parametrize("door", DOORS)
async def test_too_many_requests_are_a_429_that_says_when_to_come_back(
    rate_limited_house: House, door: str
) -> None:
    path, body = DOORS[door]
    async with rate_limited_house.client() as client:
        first = await client.post(path, json=body)
        refused = await client.post(path, json=body)
    assert (first.is_success, refused.status_code) == (True, 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-limit-requests"] == "60"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "1s"
    assert "x-ratelimit-reset-requests" in refused.headers["access-control-expose-headers"]


@pytest.mark.parametrize("door", DOORS)
async def test_an_exhausted_budget_is_a_403_with_fals_words(budget_house: House, door: str) -> None:
    path, body = DOORS[door]
    async with budget_house.client() as client:
        first = await client.post(path, json=body)
        refused = await client.post(path, json=body)
    assert (first.is_success, refused.status_code) == (True, 403)
    assert "User is locked. Reason: Exhausted balance." in refused.text
    assert refused.headers["x-darkroom-budget-remaining"] == "0 USD"
    if door == "openai":
        assert refused.json()["error"]["code"] == "insufficient_quota"
    else:
        assert refused.json()["code"] == "budget_exhausted"


@pytest.mark.parametrize("door", DOORS)
async def test_the_answer_to_a_submit_says_what_is_left(door: str) -> None:
    path, body = DOORS[door]
    tenant_limits = limits(
        requests_per_minute=60, requests_burst=3, budget=BudgetConfig(amount=Decimal(9))
    )
    async with (
        build_house(tenant_limits=tenant_limits, prices=PRICES) as house,
        house.client() as client,
    ):
        first = await client.post(path, json=body)
        second = await client.post(path, json=body)
        other = await client.get("/v1/models")
    assert first.is_success, first.text
    assert first.headers["x-ratelimit-limit-requests"] == "60"
    assert int(first.headers["x-ratelimit-remaining-requests"]) == 2
    assert first.headers["x-ratelimit-reset-requests"] == "1s"
    left = [response.headers["x-darkroom-budget-remaining"] for response in (first, second)]
    assert left == ["8 USD", "7 USD"]
    assert second.headers["x-darkroom-budget-limit"] == "9 USD"
    assert second.headers["x-darkroom-budget-reset"].endswith("T00:00:00+00:00")
    for name in second.headers:
        if name.startswith(("x-ratelimit", "x-darkroom-budget")):
            assert name in first.headers["access-control-expose-headers"]
            assert name not in other.headers


async def test_other_tenants_are_not_limited(rate_limited_house: House) -> None:
    async with rate_limited_house.client(rate_limited_house.other_key) as client:
        for _ in range(3):
            assert (await client.post(f"/{PROBE}", json={})).status_code == 200


def test_a_realtime_session_is_refused_for_now_or_for_good() -> None:
    assert closing(RateLimited("Later.")).code == LATER
    assert closing(BudgetExhausted("No.")).code == REFUSED


async def test_frames_use_up_the_budget_and_then_no_session_begins(budget_house: House) -> None:
    async with connect(budget_house) as client:
        client.send(echo=1)
        await client.hear()
    async with connect(budget_house) as client:
        refusal = await client.hear()
        assert "Exhausted balance" in refusal["reason"]
        assert await client.end() == REFUSED
