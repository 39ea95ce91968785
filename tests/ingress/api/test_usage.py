"""``/v1/models/usage``, in fal's format."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.ingress.house import House

PATH, PROBE, SCHNELL = "/v1/models/usage", "test/probe", "fal-ai/flux/schnell"


async def fetch_usage(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_usage_is_listed_by_time_and_endpoint(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.post(f"/{PROBE}", json={})
    body = await fetch_usage(client, expand="time_series,summary")
    assert (body["has_more"], body["next_cursor"]) == (False, None)
    (full,) = [bucket for bucket in body["time_series"] if bucket["results"]]
    (result,) = full["results"]
    assert result.pop("darkroom")["requests"] == 2
    assert result == {
        "endpoint_id": PROBE,
        "unit": "megapixels",
        "quantity": result["quantity"],
        "unit_price": 0.0,
        "cost": 0.0,
        "currency": "USD",
    }
    assert [row["endpoint_id"] for row in body["summary"]] == [PROBE]
    begins = datetime.fromisoformat(full["bucket"])
    assert begins <= datetime.now(UTC) < begins + timedelta(hours=1)


async def test_only_what_is_asked_for_is_returned(client: httpx.AsyncClient) -> None:
    assert "summary" not in await fetch_usage(client)
    assert "time_series" not in await fetch_usage(client, expand="summary")


async def test_a_tenant_sees_its_own_usage_only(house: House) -> None:
    async with house.client() as mine, house.client(house.other_key) as other:
        await mine.post(f"/{PROBE}", json={})
        assert (await fetch_usage(other, expand="summary"))["summary"] == []
        assert len((await fetch_usage(mine, expand="summary"))["summary"]) == 1


async def test_usage_is_filtered_by_endpoint(client: httpx.AsyncClient) -> None:
    await client.post(f"/{PROBE}", json={})
    assert (await fetch_usage(client, expand="summary", endpoint_id=SCHNELL))["summary"] == []
    both = await fetch_usage(client, expand="summary", endpoint_id=f"{SCHNELL},{PROBE}")
    assert len(both["summary"]) == 1


async def test_buckets_come_page_by_page_without_gap_or_repetition(
    client: httpx.AsyncClient,
) -> None:
    query: dict[str, Any] = {
        "start": "2026-01-01",
        "end": "2026-01-11",
        "timeframe": "day",
        "limit": 4,
    }
    days: list[str] = []
    while True:
        body = await fetch_usage(client, **query)
        days += [bucket["bucket"][:10] for bucket in body["time_series"]]
        if not body["has_more"]:
            break
        query["cursor"] = body["next_cursor"]
    assert days == [f"2026-01-{day:02}" for day in range(1, 11)]


async def test_days_are_those_of_the_zone_that_is_named(client: httpx.AsyncClient) -> None:
    query = {"start": "2026-03-28", "end": "2026-03-31", "timezone": "Europe/Berlin"}
    body = await fetch_usage(client, timeframe="day", **query)
    assert [bucket["bucket"] for bucket in body["time_series"]] == [
        "2026-03-28T00:00:00+01:00",
        "2026-03-29T00:00:00+01:00",
        "2026-03-30T00:00:00+02:00",
    ]


async def test_times_are_widened_to_whole_buckets_unless_they_are_not_to_be(
    client: httpx.AsyncClient,
) -> None:
    before = datetime.now(UTC)
    await client.post(f"/{PROBE}", json={})
    query = {"start": "2020-01-01", "end": before.isoformat(), "timeframe": "month"}
    widened = await fetch_usage(client, expand="summary", **query)
    assert len(widened["summary"]) == 1
    exact = await fetch_usage(
        client, expand="summary,time_series", bound_to_timeframe="false", **query
    )
    assert exact["summary"] == []
    assert not any(bucket["results"] for bucket in exact["time_series"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start", "yesterday"),
        ("start", "0001-01-01T00:00:00+14:00"),
        ("start", "2099-01-01"),
        ("end", "9999-12-31"),
        ("timezone", "Mars/Olympus"),
        ("timezone", "../../etc/passwd"),
        ("timezone", "America"),
        ("timeframe", "year"),
        ("bound_to_timeframe", "maybe"),
        ("expand", "auth_method"),
        ("cursor", "x"),
        ("cursor", "2020-01-01T00:00:00Z"),
        ("limit", "1001"),
        ("endpoint_id", ",".join(f"a/{n}" for n in range(51))),
    ],
)
async def test_a_wrong_query_is_named(client: httpx.AsyncClient, name: str, value: str) -> None:
    answer = await client.get(PATH, params={name: value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", name]


async def test_an_operator_sees_the_usage_of_another_tenant_and_others_do_not(house: House) -> None:
    async with house.client() as admin, house.client(house.weak_key) as weak:
        await admin.post(f"/{PROBE}", json={})
        async with house.client(house.other_key) as other:
            body = await fetch_usage(other, tenant="default", expand="summary")
        assert [row["endpoint_id"] for row in body["summary"]] == [PROBE]
        assert (await weak.get(PATH, params={"tenant": "other"})).status_code == 403
