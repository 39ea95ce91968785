"""Secrets by name over HTTP."""

from __future__ import annotations

import httpx
import pytest

from serve_app.domain.executors.secrets import INSTALLATION, MAX_VALUE_BYTES, Secret
from tests.ingress.house import House

PATH = "/v1/secrets/FAL_KEY"


async def test_a_secret_is_set_listed_and_removed_and_its_value_never_shown(
    house: House, client: httpx.AsyncClient
) -> None:
    answers = [await client.put(PATH, json={"value": "sk-secret"})]
    assert answers[0].json()["name"] == "FAL_KEY"
    answers += [await client.get("/v1/secrets"), await client.get("/v1/audit")]
    (listed,) = answers[1].json()["secrets"]
    assert (listed["name"], listed["changed_by"]) == ("FAL_KEY", house.key.partition(":")[0])
    assert all("sk-secret" not in answer.text for answer in answers)
    secrets = await house.services.secrets.read("default", ["FAL_KEY"])
    assert secrets == [Secret("FAL_KEY", "default", "sk-secret")]
    assert (await client.delete(PATH)).status_code == 204
    assert (await client.delete(PATH)).status_code == 404
    assert (await client.get("/v1/secrets")).json()["secrets"] == []


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("fal_key", {"value": "x"}, "capital letters"),
        ("1KEY", {"value": "x"}, "capital letters"),
        ("PATH", {"value": "x"}, "processes need"),
        ("LD_PRELOAD", {"value": "x"}, "processes need"),
        ("PYTHONPATH", {"value": "x"}, "processes need"),
        ("DARKROOM_KEY", {"value": "x"}, "processes need"),
        ("FAL_KEY", {"value": ""}, "at least 1 character"),
        ("FAL_KEY", {"value": "sk-secret\0"}, "should not contain NUL"),
        ("FAL_KEY", {"value": "sk-secret" * MAX_VALUE_BYTES}, "bytes"),
        ("FAL_KEY", {"value": ["sk-secret"]}, "valid string"),
        ("FAL_KEY", {"value": "sk-secret", "more": 1}, "not permitted"),
        ("HF_TOKEN", {"value": "sk-secret\n"}, "printable"),
        ("FAL_KEY", ["sk-secret"], "valid dictionary"),
    ],
)
async def test_a_wrong_secret_is_refused_without_repeating_it(
    client: httpx.AsyncClient, name: str, body: object, words: str
) -> None:
    answer = await client.put(f"/v1/secrets/{name}", json=body)
    assert answer.status_code in (413, 422), answer.text
    assert answer.status_code == 413 or words in answer.text
    assert "sk-secret" not in answer.text


async def test_only_operators_set_secrets_of_the_installation_and_of_other_tenants(
    house: House,
) -> None:
    key = str(await house.keys.create("other", scopes=frozenset({"tenant-admin"})))
    body = {"value": "x"}
    async with house.client(key) as admin, house.client() as operator:
        assert (await admin.put(PATH, json=body)).status_code == 200
        for query in ("?installation=true", "?tenant=default"):
            assert (await admin.put(f"{PATH}{query}", json=body)).status_code == 403
            assert (await admin.get(f"/v1/secrets{query}")).status_code == 403
        assert (await operator.put(f"{PATH}?tenant=nobody", json=body)).status_code == 404
        both = await operator.put(f"{PATH}?tenant=other&installation=true", json=body)
        assert both.status_code == 422
        ours = await operator.put(f"{PATH}?installation=true", json=body)
        assert ours.json()["name"] == "FAL_KEY"
        shown = (await operator.get("/v1/secrets?installation=true")).json()
        assert [secret["name"] for secret in shown["secrets"]] == ["FAL_KEY"]
        assert (await operator.delete(f"{PATH}?tenant=other")).status_code == 204
    assert await house.services.secrets.list("other") == []
    assert [secret.name for secret in await house.services.secrets.list(INSTALLATION)] == [
        "FAL_KEY"
    ]
    async with house.client(house.weak_key) as weak:
        assert (await weak.get("/v1/secrets")).status_code == 403
