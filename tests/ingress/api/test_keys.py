"""Creating, listing and revoking keys over HTTP, and the scopes that allow it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from serve_app.tenants.scopes import SCOPES
from tests.ingress.house import House


async def make(client: httpx.AsyncClient, **wish: object) -> dict[str, str]:
    answer = await client.post("/v1/keys", json=wish)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_new_key_works_until_it_is_revoked(house: House) -> None:
    async with house.client() as admin:
        key = await make(admin, alias="the web app")
        assert key["key"] == f"{key['key_id']}:{key['key_secret']}"
        async with house.client(key["key"]) as fresh:
            assert (await fresh.get("/v1/requests")).status_code == 200
            assert (await fresh.get("/v1/keys")).status_code == 403
            assert (await admin.delete(f"/v1/keys/{key['key_id']}")).status_code == 204
            assert (await fresh.get("/v1/requests")).status_code == 401


async def test_the_list_shows_everything_but_secrets(house: House) -> None:
    async with house.client() as admin:
        end = datetime.now(UTC) + timedelta(days=1)
        key = await make(
            admin, alias="a", tenant="lab", scopes=["api", "admin"], expires_at=end.isoformat()
        )
        answer = await admin.get("/v1/keys?tenant=lab")
        (shown,) = answer.json()["keys"]
        assert (shown["key_id"], shown["alias"], shown["tenant"]) == (key["key_id"], "a", "lab")
        assert shown["scopes"] == ["admin", "api"]
        assert datetime.fromisoformat(shown["expires_at"]) == end
        assert key["key_secret"] not in answer.text


async def test_the_server_computes_the_end_of_a_key_that_lasts_some_seconds(house: House) -> None:
    """The clock of the machine that asks may be wrong."""
    async with house.client() as admin:
        key = await make(admin, alias="hour", expires_in_s=3600)
        keys = (await admin.get("/v1/keys")).json()["keys"]
        (shown,) = [entry for entry in keys if entry["key_id"] == key["key_id"]]
        created, end = [
            datetime.fromisoformat(shown[name]) for name in ("created_at", "expires_at")
        ]
        assert abs(end - created - timedelta(hours=1)) < timedelta(minutes=1)
        both = {"expires_in_s": 60, "expires_at": end.isoformat()}
        refused = await admin.post("/v1/keys", json=both)
        assert refused.status_code == 422
        assert "exclude each other" in refused.text


async def test_the_list_says_which_keys_are_valid(house: House) -> None:
    now = house.services.clock.now()
    for alias, ends in (("old", now - timedelta(seconds=1)), ("new", now + timedelta(days=1))):
        await house.keys.create("default", name=alias, expires_at=ends)
    gone = await house.keys.create("default", name="gone")
    await house.keys.revoke(gone.id)
    async with house.client() as client:
        keys = (await client.get("/v1/keys")).json()["keys"]
    states = {key["alias"]: key["state"] for key in keys}
    assert [states[alias] for alias in ("old", "new", "gone")] == ["expired", "valid", "revoked"]


async def test_a_key_learns_its_tenant_and_its_scopes(house: House) -> None:
    async with house.client() as admin, house.client(house.weak_key) as weak:
        strong, plain = [(await client.get("/v1/keys/self")).json() for client in (admin, weak)]
    assert strong == {
        "key_id": house.key.partition(":")[0],
        "tenant": "default",
        "scopes": ["admin", "api"],
        "grants": sorted(SCOPES),
        "endpoints": [],
    }
    assert plain["scopes"] == ["api"]


async def test_a_key_cannot_revoke_itself(house: House) -> None:
    async with house.client() as admin:
        answer = await admin.delete(f"/v1/keys/{house.key.partition(':')[0]}")
        assert answer.status_code == 403
        assert (await admin.get("/v1/keys")).status_code == 200


async def test_a_key_that_is_not_there_is_not_revoked(house: House) -> None:
    async with house.client() as admin:
        assert (await admin.delete("/v1/keys/dk_nobody")).status_code == 404


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"tenant": "Lab 1"}, "tenant"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"expires_in_s": 0}, "expires_in_s"),
        ({"name": "x"}, "name"),
    ],
)
async def test_a_wrong_field_is_named(house: House, wish: dict[str, object], field: str) -> None:
    async with house.client() as admin:
        answer = await admin.post("/v1/keys", json=wish)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][:2] == ["body", field]


@pytest.mark.parametrize(
    "call", ["GET /v1/tenants", "GET /v1/keys", "POST /v1/keys", "DELETE /v1/keys/dk_x"]
)
async def test_keys_take_a_stronger_key(house: House, call: str) -> None:
    method, path = call.split()
    async with house.client(house.weak_key) as weak:
        assert (await weak.request(method, path, json={})).status_code == 403


async def test_what_is_done_with_keys_is_in_the_audit(house: House) -> None:
    async with house.client() as admin:
        key = await make(admin, alias="the web app", tenant="lab")
        await admin.delete(f"/v1/keys/{key['key_id']}")
        acts = (await admin.get("/v1/audit")).json()["acts"]
    shown = [(act["actor"], act["action"], act["subject"]) for act in acts]
    boss = house.key.partition(":")[0]
    assert shown == [(boss, "key.revoke", key["key_id"]), (boss, "key.create", key["key_id"])]
    assert acts[1]["detail"] == {"tenant": "lab", "alias": "the web app", "scopes": ["api"]}


async def test_a_one_time_link_is_exchanged_for_a_key_once_without_one(house: House) -> None:
    async with house.client() as admin, house.client(None) as browser:
        offered = await admin.post("/v1/sign-in/links", json={})
        assert offered.status_code == 201, offered.text
        token = offered.json()["token"]
        assert offered.json()["path"] == f"/#link={token}"
        answer = await browser.post("/v1/sign-in/links/take", json={"token": token})
        assert answer.status_code == 201, answer.text
        async with house.client(answer.json()["key"]) as fresh:
            shown = (await fresh.get("/v1/keys/self")).json()
            assert shown["scopes"] == ["admin", "api"]
        again = await browser.post("/v1/sign-in/links/take", json={"token": token})
        assert again.status_code == 401
        assert "used already" in again.json()["detail"]


async def test_a_link_is_offered_by_who_may_make_keys_and_for_a_week_at_most(house: House) -> None:
    async with house.client() as admin:
        key = await make(admin)
        async with house.client(key["key"]) as plain:
            assert (await plain.post("/v1/sign-in/links", json={})).status_code == 403
        answer = await admin.post("/v1/sign-in/links", json={"valid_s": 8 * 86_400})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "valid_s"]
