"""Usage and costs by day, tenant, key and endpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.ingress.house import House, built

PROBE = "test/probe"
EVIL = "=cmd|' /C calc'!A0"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with built(prices={PROBE: {"unit": "request", "amount": "0.1"}}) as house:
        async with house.client() as mine, house.client(house.other_key) as other:
            await mine.post(f"/{PROBE}", json={})
            for _ in range(2):
                await other.post(f"/{PROBE}", json={})
        yield house


async def sums(client: httpx.AsyncClient, **query: str) -> dict[str, Any]:
    answer = await client.get("/v1/usage", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_tenant_sees_its_own_sums(house: House) -> None:
    async with house.client(house.weak_key) as client:
        body = await sums(client, by="endpoint,key")
        refused = await client.get("/v1/usage", params={"tenants": "*"})
    (result,) = body["results"]
    assert (result["endpoint_id"], result["requests"], result["cost"]) == (PROBE, 1, 0.1)
    assert house.key.startswith(result["key_id"])
    assert (result["unit"], result["unit_price"], result["quantity"]) == ("requests", 0.1, 1.0)
    assert body["costs"] == [{"currency": "USD", "cost": 0.1}]
    assert refused.status_code == 403


async def test_an_operator_sees_all_tenants(house: House) -> None:
    async with house.client() as client:
        body = await sums(client, by="tenant", tenants="*")
        acts = (await client.get("/v1/audit")).json()["acts"]
    assert {each["tenant"]: each["requests"] for each in body["results"]} == {
        "default": 1,
        "other": 2,
    }
    assert body["costs"] == [{"currency": "USD", "cost": pytest.approx(0.3)}]
    assert acts[0]["subject"] == "*"


@pytest.mark.parametrize("how", ["path", "accept"])
async def test_sums_are_a_file_for_spreadsheets(house: House, how: str) -> None:
    async with house.client() as client:
        path = "/v1/usage.csv" if how == "path" else "/v1/usage"
        accept = {} if how == "path" else {"accept": "text/csv"}
        answer = await client.get(path, params={"by": "day,endpoint"}, headers=accept)
    assert answer.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["endpoint_id"], row["requests"], row["cost"]) == (PROBE, "1", "0.1")
    assert row["day"].count("-") == 2


async def test_no_cell_of_the_file_is_a_formula(house: House) -> None:
    async with house.client() as client:
        line = house.queue.ledger.lines[0]
        house.queue.ledger.lines[0] = type(line)(
            *(line.id, line.tenant, EVIL, line.at, line.usage, None, line.made, "k", True)
        )
        text = (await client.get("/v1/usage.csv", params={"by": "endpoint"})).text
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["endpoint_id"] == f"'{EVIL}"


@pytest.mark.parametrize("query", [{"by": "colour"}, {"tenants": "some"}, {"start": "yesterday"}])
async def test_what_cannot_be_asked_is_refused(house: House, query: dict[str, str]) -> None:
    async with house.client() as client:
        assert (await client.get("/v1/usage", params=query)).status_code == 422
