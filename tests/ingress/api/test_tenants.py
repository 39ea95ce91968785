"""Tenants over HTTP: their limits, and what happens while they are disabled."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serve_app.settings import BUDGET, STORAGE, TenantLimits
from tests.ingress.house import House, build_house

PROBE = "test/probe"


async def tenant(client: httpx.AsyncClient, name: str = "other") -> dict[str, Any]:
    answer = await client.get(f"/v1/tenants/{name}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_tenants_are_listed_with_the_limits_in_force_and_their_files() -> None:
    limits = {"other": {"weight": 3, "max_running": 8}}
    usual = {"retention_days": 30, "max_waiting_per_tenant": 70}
    async with (
        build_house(replica=False, tenant_limits=limits, **usual) as house,
        house.client() as admin,
    ):
        await admin.post("/cdn/files/upload", content=b"seven b")
        listed = (await admin.get("/v1/tenants")).json()["tenants"]
    tenants = {row["tenant"]: row for row in listed}
    assert [*tenants] == ["default", "other"]
    assert (tenants["default"]["valid_keys"], tenants["default"]["max_running"]) == (2, None)
    assert (tenants["other"]["weight"], tenants["other"]["max_running"]) == (3.0, 8)
    assert (tenants["other"]["retention_days"], tenants["other"]["max_waiting"]) == (30.0, 70)
    assert [tenants[name]["uploads_bytes"] for name in tenants] == [7, 0]


async def test_each_limit_says_where_it_comes_from_and_operators_come_first() -> None:
    limits = {"other": {"weight": 3, "max_running": 8}}
    async with (
        build_house(replica=False, tenant_limits=limits, max_waiting_per_tenant=70) as house,
        house.client() as admin,
    ):
        answer = await admin.patch(
            "/v1/tenants/other", json={"limits": {"max_running": 2, "max_uploads_bytes": 10}}
        )
        assert answer.status_code == 200, answer.text
        shown = answer.json()["limits"]
        assert {*shown, BUDGET, STORAGE} == {*TenantLimits.model_fields}
        assert shown["max_running"] == {"value": 2, "source": "api"}
        assert shown["max_uploads_bytes"] == {"value": 10, "source": "api"}
        assert shown["weight"] == {"value": 3, "source": "file"}
        assert shown["max_waiting"] == {"value": 70, "source": "default"}
        assert house.services.config.queue.tenant_limits["other"].max_running == 2
        await admin.patch("/v1/tenants/other", json={"limits": {"max_running": None}})
        again = await tenant(admin)
        assert again["limits"]["max_running"] == {"value": 8, "source": "file"}
        assert again["max_running"] == 8


async def test_a_limit_that_is_set_is_in_force_for_the_next_submit() -> None:
    async with (
        build_house(replica=False) as house,
        house.client() as admin,
        house.client(house.other_key) as other,
    ):
        await admin.patch("/v1/tenants/other", json={"limits": {"max_waiting": 1}})
        assert (await other.post(f"/queue/{PROBE}", json={})).status_code == 200
        assert (await other.post(f"/queue/{PROBE}", json={})).status_code == 429


async def test_a_tenant_is_created_with_a_name_and_limits(house: House) -> None:
    async with house.client() as admin:
        wish = {"tenant": "studio", "name": "Studio A", "limits": {"weight": 2}}
        answer = await admin.post("/v1/tenants", json=wish)
        assert answer.status_code == 201, answer.text
        assert (answer.json()["name"], answer.json()["weight"], answer.json()["valid_keys"]) == (
            "Studio A",
            2.0,
            0,
        )
        again = await admin.post("/v1/tenants", json=wish)
        assert (again.status_code, "exists already" in again.text) == (422, True)
        renamed = await admin.patch("/v1/tenants/studio", json={"name": "Studio B"})
        assert (renamed.json()["name"], renamed.json()["weight"]) == ("Studio B", 2.0)
        acts = (await admin.get("/v1/audit")).json()["acts"]
    assert [act["action"] for act in acts] == ["tenant.change", "tenant.create"]


async def test_an_id_that_no_tenant_can_have_is_refused_in_words(house: House) -> None:
    async with house.client() as admin:
        answers = [
            await admin.post("/v1/tenants", json={"tenant": "Über Co"}),
            await admin.post("/v1/keys", json={"tenant": "Über Co"}),
            await admin.post("/v1/keys", json={"endpoints": ["a b"]}),
        ]
    assert [answer.status_code for answer in answers] == [422, 422, 422]
    messages = [answer.json()["detail"][0]["msg"] for answer in answers]
    assert messages[0].startswith("Input should be 1 to 64 lower-case letters")
    assert messages[1] == messages[0]
    assert "the id of an endpoint" in messages[2]
    assert not any("[a-z" in answer.json()["message"] for answer in answers)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"limits": {"max_running": 0}}, "max_running"),
        ({"limits": {"weight": -1}}, "weight"),
        ({"limits": {"weight": 1e-300}}, "weight"),  # the pool's times would overflow
        ({"limits": {"max_running": 2**31}}, "max_running"),  # it stopped leases to all tenants
        ({"limits": {"requests_burst": 2**31}}, "requests_burst"),
        ({"limits": {"max_waiting_bytes": 2**53}}, "max_waiting_bytes"),
        ({"limits": {"retention_days": 1e7}}, "retention_days"),  # nothing was deleted any more
        ({"limits": {"prompt_retention_days": 1e7}}, "prompt_retention_days"),
        ({"limits": {"file_retention_days": 1e300}}, "file_retention_days"),
        ({"limits": {"file_retention_days": "1e999"}}, "file_retention_days"),
        ({"limits": {"most": 1}}, "most"),
        ({"name": ""}, "name"),
        ({"id": "x"}, "id"),
    ],
)
async def test_a_wrong_limit_is_named(house: House, body: dict[str, Any], field: str) -> None:
    async with house.client() as admin:
        answer = await admin.patch("/v1/tenants/other", json=body)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][-1] == field


async def test_what_is_no_tenant_is_not_found(house: House) -> None:
    async with house.client() as admin:
        assert (await admin.get("/v1/tenants/nobody")).status_code == 404
        assert (await admin.patch("/v1/tenants/nobody", json={})).status_code == 404
        assert (await admin.put("/v1/tenants/nobody/disable", json={})).status_code == 404


async def test_a_disabled_tenants_keys_are_refused_and_its_requests_wait() -> None:
    async with (
        build_house(replica=False) as house,
        house.client() as admin,
        house.client(house.other_key) as other,
    ):
        request_id = (await other.post(f"/queue/{PROBE}", json={})).json()["request_id"]
        off = await admin.put("/v1/tenants/other/disable", json={})
        assert off.json()["disabled_at"] is not None
        refused = await other.get("/v1/requests")
        assert (refused.status_code, refused.json()["code"]) == (403, "tenant_disabled")
        path = f"/v1/requests/{request_id}?tenant=other"
        shown = (await admin.get(path)).json()
        assert (shown["state"], "disabled" in shown["waiting"]["detail"]) == ("queued", True)
        on = await admin.put("/v1/tenants/other/enable")
        assert on.json()["disabled_at"] is None
        assert (await other.get("/v1/requests")).status_code == 200
        acts = (await admin.get("/v1/audit")).json()["acts"]
    actions = [act["action"] for act in acts if act["action"].startswith("tenant.")]
    assert actions == ["tenant.enable", "tenant.read", "tenant.disable"]


async def test_what_is_queued_is_cancelled_by_a_switch() -> None:
    async with (
        build_house(replica=False) as house,
        house.client() as admin,
        house.client(house.other_key) as other,
    ):
        ids = [(await other.post(f"/queue/{PROBE}", json={})).json()["request_id"] for _ in "abc"]
        await admin.put("/v1/tenants/other/disable", json={"cancel_queued": True})
        async with asyncio.timeout(60):
            for request_id in ids:
                path = f"/v1/requests/{request_id}?tenant=other&wait=30"
                while (await admin.get(path)).json()["state"] != "cancelled":
                    pass


async def test_an_operator_does_not_disable_its_own_tenant(house: House) -> None:
    async with house.client() as admin:
        answer = await admin.put("/v1/tenants/default/disable", json={})
        assert (answer.status_code, "own tenant" in answer.text) == (403, True)


async def test_a_rate_that_an_operator_sets_is_in_force_and_leaves_the_budget() -> None:
    limits = {"other": {"budget": {"amount": 5}}}
    async with build_house(replica=False, tenant_limits=limits) as house, house.client() as admin:
        rate = {"requests_per_minute": 30}
        answer = await admin.patch("/v1/tenants/other", json={"limits": rate})
        assert answer.json()["limits"]["requests_per_minute"]["source"] == "api"
        own = house.services.config.queue.tenant_limits["other"]
    assert (own.requests_per_minute, own.budget and own.budget.amount) == (30, 5)


async def test_a_tenant_gets_a_storage_location_that_exists() -> None:
    async with build_house(replica=False) as house, house.client() as admin:
        refused = await admin.patch("/v1/tenants/other", json={"limits": {"storage": "nowhere"}})
        assert refused.status_code == 422
        assert "no storage location 'nowhere'" in refused.text
        assert "acme" in refused.text
        changed = await admin.patch("/v1/tenants/other", json={"limits": {"storage": "acme"}})
        assert changed.json()["storage"] == "acme"
        assert "storage" not in changed.json()["limits"]
        back = await admin.patch("/v1/tenants/other", json={"limits": {"storage": None}})
        assert back.json()["storage"] is None


async def test_a_budget_that_an_operator_sets_is_in_force_and_audited() -> None:
    prices = {PROBE: {"unit": "request", "amount": 1}}
    hook = "https://u:secret@example.com/budget?key=secret"
    async with (
        build_house(prices=prices) as house,
        house.client() as admin,
        house.client(house.other_key) as other,
    ):
        budget = {"amount": "1.50", "period": "day", "warn_at": [0.5], "webhook": hook}
        answer = await admin.patch("/v1/tenants/other", json={"limits": {"budget": budget}})
        assert answer.status_code == 200, answer.text
        shown = {**budget, "currency": "USD", "stop": True, "source": "api"}
        assert answer.json()["budget"] == shown
        first = await other.post(f"/{PROBE}", json={})
        assert first.headers["x-darkroom-budget-remaining"] == "0.50 USD"
        assert (await other.post(f"/{PROBE}", json={})).status_code == 403
        (act,) = (await admin.get("/v1/audit?action=tenant.change")).json()["acts"]
        assert act["subject"] == "other"
        assert act["detail"]["limits"]["budget"]["amount"] == "1.50"
        assert "secret" not in str(act)
        await admin.patch("/v1/tenants/other", json={"limits": {"budget": None}})
        assert (await tenant(admin))["budget"] is None
        assert (await other.post(f"/{PROBE}", json={})).status_code == 200


async def test_a_tenant_is_created_with_a_budget(house: House) -> None:
    async with house.client() as admin:
        body = {"tenant": "made", "limits": {"budget": {"amount": 3, "stop": False}}}
        answer = await admin.post("/v1/tenants", json=body)
        assert answer.status_code == 201, answer.text
        assert (answer.json()["budget"]["amount"], answer.json()["budget"]["stop"]) == ("3", False)


async def test_a_budget_of_an_operator_comes_before_that_of_the_settings() -> None:
    of_file = {"other": {"budget": {"amount": 5}}}
    async with build_house(replica=False, tenant_limits=of_file) as house, house.client() as admin:
        assert (await tenant(admin))["budget"]["source"] == "file"
        changes = {"limits": {"budget": {"amount": 7}}}
        answer = (await admin.patch("/v1/tenants/other", json=changes)).json()
        assert (answer["budget"]["amount"], answer["budget"]["source"]) == ("7", "api")
        answer = (await admin.patch("/v1/tenants/other", json={"limits": {"budget": None}})).json()
        assert (answer["budget"]["amount"], answer["budget"]["source"]) == ("5", "file")


@pytest.mark.parametrize(
    ("budget", "place", "message"),
    [
        ({"amount": 0}, "limits.budget.amount", "greater than 0"),
        ({"amount": "much"}, "limits.budget.amount", "valid decimal"),
        ({"amount": "1e200000"}, "limits.budget.amount", "less than or equal to 1000000000000000"),
        ({"amount": "1e-200000"}, "limits.budget.amount", "no more than 9 decimal places"),
        ({"amount": 1, "currency": "Euro"}, "limits.budget.currency", "match pattern"),
        ({"amount": 1, "warn_at": [-1]}, "limits.budget.warn_at.0", "greater than 0"),
        ({"amount": 1, "webhook": "ftp://x"}, "limits.budget.webhook", "http"),
        ({"amount": 1, "webhook": "http://127.0.0.1/"}, "limits.budget.webhook", "127.0.0.1"),
        ({"amount": 1, "week": 2}, "week", "Extra inputs"),
    ],
)
async def test_a_budget_that_is_not_valid_is_refused_by_its_field(
    house: House, budget: dict[str, Any], place: str, message: str
) -> None:
    async with house.client() as admin:
        answer = await admin.patch("/v1/tenants/other", json={"limits": {"budget": budget}})
        assert answer.status_code == 422, answer.text
        assert place in answer.json()["message"]
        assert message in answer.json()["message"]
        assert (await tenant(admin))["budget"] is None
