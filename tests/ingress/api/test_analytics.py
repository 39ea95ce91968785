"""fal's analytics call: how many requests ended, with which result, and their durations."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.ingress.house import House

PROBE, FLUX = "test/probe", "fal-ai/flux/schnell"


async def fetch_analytics(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get("/v1/models/analytics", params={"endpoint_id": PROBE, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_ends_are_counted_by_whose_fault_they_are(client: httpx.AsyncClient) -> None:
    for orders in ({}, {}, {"fail": "pipeline_failed"}, {"fail": "invalid_input", "field": "x"}):
        await client.post(f"/run/{PROBE}", json=orders)
    (result,) = (await fetch_analytics(client, expand="summary"))["summary"]
    assert result["endpoint_id"] == PROBE
    counts = ("request_count", "success_count", "user_error_count", "error_count")
    assert [result[name] for name in counts] == [4, 2, 1, 1]
    assert 0 <= result["p50_duration"] <= result["p90_duration"] <= result["p99_duration"]
    assert 0 <= result["p50_prepare_duration"] <= result["p75_prepare_duration"]


async def test_buckets_have_what_ended_in_them_and_only_the_metrics_that_are_named(
    client: httpx.AsyncClient,
) -> None:
    await client.post(f"/run/{PROBE}", json={})
    body = await fetch_analytics(client, expand="request_count,p50_duration", timeframe="hour")
    assert "summary" not in body
    (bucket,) = [entry for entry in body["time_series"] if entry["results"]]
    (result,) = bucket["results"]
    assert set(result) == {"endpoint_id", "request_count", "p50_duration"}
    assert result["request_count"] == 1


async def test_what_never_started_has_no_duration(house: House, client: httpx.AsyncClient) -> None:
    await house.replica.aclose()
    submitted = (await client.post(f"/queue/{PROBE}", json={})).json()
    await client.put(f"/queue/{PROBE}/requests/{submitted['request_id']}/cancel")
    (result,) = (await fetch_analytics(client, expand="summary"))["summary"]
    assert (result["request_count"], result["p50_duration"]) == (1, None)


async def test_requests_of_other_tenants_are_not_counted(
    house: House, client: httpx.AsyncClient
) -> None:
    async with house.client(house.other_key) as other:
        await other.post(f"/run/{PROBE}", json={})
    assert (await fetch_analytics(client, expand="summary"))["summary"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "endpoint_id"),
        ("endpoint_id=a&expand=p51_duration", "expand"),
        ("endpoint_id=a&timeframe=year", "timeframe"),
        ("endpoint_id=a&cursor=x", "cursor"),
        ("endpoint_id=a&limit=0", "limit"),
        ("endpoint_id=" + ",".join(map(str, range(51))), "endpoint_id"),
    ],
)
async def test_a_wrong_question_names_its_parameter(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    answer = await client.get(f"/v1/models/analytics?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", field]
