"""A tenant's token of the hub."""

from __future__ import annotations

import httpx

from tests.ingress.house import House

PATH = "/v1/tenants/default/hub-token"


async def test_a_token_is_set_and_removed_and_never_shown(
    house: House, client: httpx.AsyncClient
) -> None:
    assert (await client.get(PATH)).json() == {"tenant": "default", "own": False, "operators": True}
    answer = await client.put(PATH, json={"token": "hf_secret"})
    assert (answer.status_code, answer.json()["own"]) == (200, True)
    assert await house.services.hub_tokens.token("default") == "hf_secret"
    log = await client.get("/v1/audit")
    assert log.json()["acts"][0]["action"] == "hub-token.set"
    for each in (answer, await client.get(PATH), log):
        assert "hf_secret" not in each.text
    assert (await client.delete(PATH)).json()["own"] is False
    assert await house.services.hub_tokens.token("default") is None


async def test_a_wrong_body_is_refused_without_repeating_the_token(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.put(PATH, json={"token": "hf_secret", "more": 1})
    assert answer.status_code == 422
    assert "hf_secret" not in answer.text
    long = await client.put(PATH, json={"token": "hf_" + "x" * 600})
    assert long.status_code == 422
    assert "xxxx" not in long.text


async def test_only_operators_set_the_token_of_another_tenant(house: House) -> None:
    scopes = frozenset({"tenant-admin"})
    async with house.client(str(await house.keys.create("other", scopes=scopes))) as admin:
        assert (await admin.put(PATH, json={"token": "x"})).status_code == 403
        own = await admin.put("/v1/tenants/other/hub-token", json={"token": "x"})
        assert own.status_code == 200
    async with house.client() as operator:
        assert (await operator.put(PATH, json={"token": "x"})).status_code == 200
        unknown = await operator.put("/v1/tenants/nobody/hub-token", json={"token": "x"})
        assert unknown.status_code == 404
    async with house.client(house.weak_key) as weak:
        assert (await weak.put(PATH, json={"token": "x"})).status_code == 403


async def test_a_look_at_the_token_of_another_tenant_is_audited(house: House) -> None:
    await house.keys.create("other")
    async with house.client() as operator:
        await operator.get(PATH)  # the own one
        await operator.get("/v1/tenants/other/hub-token")
        acts = (await operator.get("/v1/audit")).json()["acts"]
    reads = [each for each in acts if each["action"] == "tenant.read"]
    assert [(each["subject"], each["detail"]) for each in reads] == [
        ("other", {"call": "v1.hub-token"})
    ]
    assert house.key.startswith(reads[0]["actor"])
