"""``/v1/models/requests/by-endpoint``, in fal's format."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.ingress.house import House

PATH, PROBE = "/v1/models/requests/by-endpoint", "test/probe"


async def fetch_history(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get(PATH, params={"endpoint_id": PROBE, **query})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def run(client: httpx.AsyncClient, body: dict[str, Any], **headers: str) -> str:
    answer = await client.post(f"/{PROBE}", json=body, headers=headers)
    return answer.headers["x-fal-request-id"]


async def test_an_ended_request_is_described_in_fals_words(client: httpx.AsyncClient) -> None:
    request_id = await run(client, {"echo": "hello"})
    body = await fetch_history(client)
    assert (body["has_more"], body["next_cursor"]) == (False, None)
    (item,) = body["items"]
    assert (item["request_id"], item["endpoint_id"]) == (request_id, PROBE)
    assert item["status_code"] == 200
    sent, started, ended = (
        datetime.fromisoformat(item[name]) for name in ("sent_at", "started_at", "ended_at")
    )
    assert sent <= started <= ended
    assert item["duration"] == (ended - started).total_seconds()
    assert "json_input" not in item


async def test_payloads_are_shown_when_they_are_asked_for(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"/{PROBE}", json={"artifacts": 1})
    (item,) = (await fetch_history(client, expand="payloads"))["items"]
    assert item["json_input"] == {"artifacts": 1}
    assert item["json_output"] == answer.json()


async def test_those_who_failed_are_reported_with_their_error(client: httpx.AsyncClient) -> None:
    await run(client, {"fail": "pipeline_failed", "message": "No."})
    (item,) = (await fetch_history(client, expand="payloads"))["items"]
    assert item["status_code"] == 500
    assert item["json_output"]["detail"] == "No."


async def test_payloads_that_were_not_to_be_kept_are_not_shown(client: httpx.AsyncClient) -> None:
    await run(client, {"echo": "secret"}, **{"x-fal-store-io": "0"})
    (item,) = (await fetch_history(client, expand="payloads"))["items"]
    assert item["json_input"] is None


async def test_they_are_filtered_by_how_they_ended(client: httpx.AsyncClient) -> None:
    good = await run(client, {})
    broken = await run(client, {"fail": "pipeline_failed", "message": "No."})
    wrong = await run(client, {"fail": "invalid_input", "message": "No."})
    for status, expected in (("success", good), ("error", broken), ("user_error", wrong)):
        items = (await fetch_history(client, status=status))["items"]
        assert [item["request_id"] for item in items] == [expected], status


async def test_they_come_page_by_page_the_latest_end_first(client: httpx.AsyncClient) -> None:
    sent = [await run(client, {}) for _ in range(5)]
    query: dict[str, Any] = {"limit": 2}
    listed: list[str] = []
    while True:
        body = await fetch_history(client, **query)
        listed += [item["request_id"] for item in body["items"]]
        if not body["has_more"]:
            break
        query["cursor"] = body["next_cursor"]
    assert listed == sent[::-1]


async def test_they_are_found_by_time_and_by_id(client: httpx.AsyncClient) -> None:
    first = await run(client, {})
    between = datetime.now(UTC).isoformat()
    second = await run(client, {})
    by_id = (await fetch_history(client, request_id=first))["items"]
    later = (await fetch_history(client, start=between))["items"]
    earlier = (await fetch_history(client, end=between))["items"]
    listed = [[item["request_id"] for item in items] for items in (by_id, later, earlier)]
    assert listed == [[first], [second], [first]]


async def test_a_tenant_sees_its_own_requests_only(house: House) -> None:
    async with house.client() as mine, house.client(house.other_key) as other:
        await run(mine, {})
        assert (await fetch_history(other))["items"] == []


async def test_the_endpoint_must_be_named(client: httpx.AsyncClient) -> None:
    answer = await client.get(PATH)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "endpoint_id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "failed"),
        ("expand", "everything"),
        ("request_id", "1"),
        ("cursor", "x"),
        ("cursor", f"{10**30}-00000000-0000-0000-0000-000000000000"),
        ("sort_by", "duration"),
        ("limit", "101"),
        ("start", "2099-01-01"),
    ],
)
async def test_a_wrong_query_is_named(client: httpx.AsyncClient, name: str, value: str) -> None:
    answer = await client.get(PATH, params={"endpoint_id": PROBE, name: value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", name]
