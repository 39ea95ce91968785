"""fal's calls about an account, and those that make no sense here."""

from __future__ import annotations

from decimal import Decimal

import httpx
import pytest

from serve_app.settings import BudgetConfig, TenantLimits
from tests.ingress.house import build_house

BILLING = "/v1/account/billing"
PROBE = "test/probe"


async def test_the_balance_is_what_is_left_of_the_budget() -> None:
    budget = BudgetConfig(amount=Decimal(9), currency="EUR")
    limits = {"default": TenantLimits(budget=budget)}
    prices = {PROBE: {"unit": "request", "amount": "1.5", "currency": "EUR"}}
    async with build_house(tenant_limits=limits, prices=prices) as house, house.client() as client:
        assert (await client.get(BILLING)).json() == {"username": "default"}
        for balance in (9.0, 7.5):
            shown = (await client.get(BILLING, params={"expand": "credits"})).json()
            left = {"current_balance": balance, "currency": "EUR"}
            assert shown == {"username": "default", "credits": left}
            assert (await client.post(f"/run/{PROBE}", json={})).status_code == 200


async def test_without_a_budget_there_are_no_credits(client: httpx.AsyncClient) -> None:
    shown = await client.get(BILLING, params={"expand": "credits"})
    assert shown.json() == {"username": "default"}
    refused = await client.get(BILLING, params={"expand": "credits,coupons"})
    assert (refused.status_code, "credits" in refused.text) == (422, True)


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("/v1/meta", "signature"),
        ("/v1/account/focus?start_date=2026-01-01", "/v1/usage.csv"),
        ("/v1/account/model-access-controls", "/v1/keys"),
        ("/v1/serverless/apps/queue", "/v1/status"),
        ("/v1/compute/instances", "no machines"),
    ],
)
async def test_what_makes_no_sense_here_is_refused_with_what_to_use_instead(
    client: httpx.AsyncClient, path: str, instead: str
) -> None:
    refused = await client.get(path)
    assert (refused.status_code, refused.json()["code"]) == (400, "feature_not_supported")
    assert instead in refused.text


async def test_other_paths_are_not_there(client: httpx.AsyncClient) -> None:
    for path in ("/v1/metadata", "/v1/account", "/v1/computers"):
        assert (await client.get(path)).status_code == 404
