"""Usage and costs by day, tenant, key and endpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import httpx
import pytest

from serve_app.domain.billing.sums import MAX_SUMS, SumsQuery, UsageSum
from serve_app.domain.errors import InvalidInput
from tests.ingress.house import House, build_house

PROBE = "test/probe"
EVIL = "=cmd|' /C calc'!A0"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(prices={PROBE: {"unit": "request", "amount": "0.1"}}) as house:
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
    assert {result["tenant"]: result["requests"] for result in body["results"]} == {
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


async def test_the_sums_of_a_quarter_are_not_widened_to_weeks(house: House) -> None:
    lines = house.queue.ledger.lines
    lines[0] = replace(lines[0], at=datetime(2026, 4, 1, tzinfo=UTC))
    quarter = {"start": "2026-01-01", "end": "2026-04-01", "by": "endpoint"}
    async with house.client() as client:
        before = await sums(client, **quarter)
        lines[0] = replace(lines[0], at=datetime(2026, 1, 1, tzinfo=UTC))
        within = await sums(client, **quarter)
    assert (before["results"], before["costs"]) == ([], [])
    assert (before["start"], before["end"]) == (
        "2026-01-01T00:00:00+00:00",
        "2026-04-01T00:00:00+00:00",
    )
    assert [result["requests"] for result in within["results"]] == [1]


async def test_the_file_of_decades_asks_about_days_with_usage_and_not_about_each_of_the_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, line = house.queue.ledger.lines, house.queue.ledger.lines[0]
    days = [datetime(1990, 5, 1, 12, tzinfo=UTC), datetime(2019, 1, 3, 12, tzinfo=UTC)]
    days += [datetime(2019, 1, day, 12, tzinfo=UTC) for day in range(4, 8)]
    lines[:] = [replace(line, at=at) for at in days]
    read, asked = house.queue.ledger.sums, list[SumsQuery]()

    async def at_most_two(query: SumsQuery) -> Sequence[UsageSum]:
        asked.append(query)
        if len(sums := await read(query)) > 2:
            raise InvalidInput(f"These are more than {MAX_SUMS} sums.")
        return sums

    monkeypatch.setattr(house.queue.ledger, "sums", at_most_two)
    async with house.client() as client:
        decades = {"start": "1970-01-01", "end": "2026-01-01", "by": "day"}
        answer = await client.get("/v1/usage.csv", params=decades)
    rows = [*csv.DictReader(io.StringIO(answer.text))]
    assert [row["day"] for row in rows] == [at.date().isoformat() for at in days]
    assert len(asked) < 100


async def test_the_days_of_a_long_time_are_not_listed_first(house: House) -> None:
    long = {"start": "1970-01-01", "end": "8999-01-01"}
    async with house.client() as client:
        began = monotonic()
        body = await sums(client, **long)
        assert monotonic() - began < 5  # it blocked the process for half a minute
    assert [result["requests"] for result in body["results"]] == [1]


async def test_a_file_that_is_refused_is_not_begun(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(query: SumsQuery) -> Sequence[UsageSum]:
        raise InvalidInput(f"These are more than {MAX_SUMS} sums of {query.tenant}.")

    monkeypatch.setattr(house.queue.ledger, "sums", refused)
    async with house.client() as client:
        answer = await client.get("/v1/usage.csv", params={"by": "key"})
    assert answer.status_code == 422
    assert "more than 10000 sums" in answer.json()["message"]


@pytest.mark.parametrize("query", [{"by": "colour"}, {"tenants": "some"}, {"start": "yesterday"}])
async def test_what_cannot_be_asked_is_refused(house: House, query: dict[str, str]) -> None:
    async with house.client() as client:
        assert (await client.get("/v1/usage", params=query)).status_code == 422
