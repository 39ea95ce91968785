"""Deletion of requests over HTTP, and search in the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from serve_app.domain.errors import StorageUnavailable
from tests.ingress.fal.test_submit import submit, wait_until_completed
from tests.ingress.house import House


async def run_request(client: httpx.AsyncClient) -> tuple[str, str]:
    """Id of a request that has ended, and the URL of its file."""
    submitted = await submit(client, artifacts=1)
    await wait_until_completed(client, submitted)
    output = (await client.get(submitted["response_url"])).json()
    return submitted["request_id"], output["images"][0]["url"]


@pytest.fixture
async def image(client: httpx.AsyncClient) -> tuple[str, str]:
    return await run_request(client)


async def test_a_deleted_request_and_its_file_answer_404(
    client: httpx.AsyncClient, image: tuple[str, str]
) -> None:
    id_, url = image
    assert (await client.get(url)).status_code == 200
    answer = await client.delete(f"/v1/requests/{id_}")
    assert (answer.status_code, answer.json()) == (200, {"deleted_files": 1, "later_files": 0})
    assert (await client.get(url)).status_code == 404
    assert (await client.get(f"/v1/requests/{id_}")).status_code == 404
    assert (await client.delete(f"/v1/requests/{id_}")).status_code == 404


async def test_fals_call_names_each_file(client: httpx.AsyncClient, image: tuple[str, str]) -> None:
    id_, url = image
    answer = await client.delete(f"/v1/models/requests/{id_}/payloads")
    assert answer.json() == {"cdn_delete_results": [{"link": url, "exception": None}]}
    assert (await client.get(url)).status_code == 404


async def test_while_storage_is_away_the_request_goes_and_the_file_is_reported_for_later(
    house: House, client: httpx.AsyncClient, image: tuple[str, str]
) -> None:
    async def away(keys: Sequence[str]) -> None:
        raise StorageUnavailable(f"{len(keys)} files stay where they are.")

    house.storage.delete = away
    answer = await client.delete(f"/v1/requests/{image[0]}")
    assert answer.json() == {"deleted_files": 0, "later_files": 1}
    assert (await client.get(f"/v1/requests/{image[0]}")).status_code == 404


async def test_others_find_nothing_to_delete(house: House, image: tuple[str, str]) -> None:
    async with house.client(house.other_key) as other:
        assert (await other.delete(f"/v1/requests/{image[0]}")).status_code == 404
    async with house.client() as own:
        assert (await own.get(image[1])).status_code == 200


async def test_what_waits_is_refused_with_what_to_do(idle_client: httpx.AsyncClient) -> None:
    submitted = await submit(idle_client)
    answer = await idle_client.delete(f"/v1/requests/{submitted['request_id']}")
    assert (answer.status_code, answer.json()["code"]) == (400, "request_active")
    assert "cancel it" in answer.json()["message"]


async def test_the_list_is_narrowed(client: httpx.AsyncClient) -> None:
    id_, _ = await run_request(client)
    request = (await client.get(f"/v1/requests/{id_}")).json()

    async def ids(**narrowed: str) -> list[str]:
        answer = await client.get("/v1/requests", params=narrowed)
        return [entry["request_id"] for entry in answer.json()["requests"]]

    assert (
        await ids(endpoint_id=request["endpoint_id"])
        == await ids(since=request["created_at"])
        == [id_]
    )
    assert (
        await ids(until=request["created_at"])
        == await ids(endpoint_id="test/deep/path/probe")
        == []
    )


async def test_an_admin_lists_and_looks_at_requests_of_other_tenants(house: House) -> None:
    async with house.client() as client, house.client(house.other_key) as admin:
        ids = [(await run_request(client))[0] for _ in range(2)]
        own, _ = await run_request(admin)

        async def listed(**asked: Any) -> list[tuple[str, str]]:
            page = (await admin.get("/v1/requests", params=asked)).json()["requests"]
            return [(request["tenant"], request["request_id"]) for request in page]

        theirs = [("default", id_) for id_ in reversed(ids)]
        assert await listed() == await listed(tenant="other") == [("other", own)]
        assert await listed(tenant="default") == theirs
        assert await listed(tenant="*") == [("other", own), *theirs]
        endpoint = (await client.get(f"/v1/requests/{ids[0]}")).json()["endpoint_id"]
        narrowed = {"tenant": "*", "endpoint_id": endpoint, "state": "succeeded"}
        assert await listed(**narrowed, before=own) == theirs
        first = (await admin.get("/v1/requests", params={"tenant": "*", "limit": 1})).json()
        assert await listed(tenant="*", before=first["next_before"]) == theirs
        path = f"/v1/requests/{ids[0]}"
        assert (await admin.get(path)).status_code == 404
        assert (await admin.get(path, params={"tenant": "default"})).status_code == 200


@pytest.mark.parametrize("tenant", ["other", "*"])
async def test_without_the_scope_operator_they_are_refused(house: House, tenant: str) -> None:
    async with house.client(house.weak_key) as weak:
        assert (await weak.get("/v1/requests", params={"tenant": "default"})).status_code == 200
        answer = await weak.get("/v1/requests", params={"tenant": tenant})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "scope `operator`" in answer.json()["message"]


@pytest.mark.parametrize("since", ["yesterday", "2026-01-31T12:00:00", ""])
async def test_a_time_without_its_zone_is_refused(client: httpx.AsyncClient, since: str) -> None:
    answer = await client.get("/v1/requests", params={"since": since})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "since"]


async def test_what_is_not_to_be_stored_is_forgotten_and_reported_as_gone(
    house: House, client: httpx.AsyncClient
) -> None:
    body = {"prompt": "a secret", "sync_mode": True, "artifacts": 1}
    answer = await client.post("/queue/test/probe", json=body, headers={"X-Fal-Store-IO": "0"})
    shown = answer.json()
    await wait_until_completed(client, shown)
    path = f"/v1/requests/{shown['request_id']}"
    request = (await client.get(path)).json()
    assert (request["prompt"], request["input"], request["forgotten"]) == (
        None,
        {"sync_mode": True},
        ["input"],
    )
    result = await client.get(shown["response_url"])
    assert result.json()["images"][0]["url"].startswith("data:")
    row = house.queue._rows[shown["request_id"]]
    assert row.request.finished_at is not None
    row.request = replace(row.request, finished_at=row.request.finished_at - timedelta(hours=1))
    gone = await client.get(shown["response_url"])
    assert (gone.status_code, gone.json()["code"]) == (410, "outcome_forgotten")
    assert (await client.get(shown["status_url"])).json()["status"] == "COMPLETED"
    assert (await client.get(path)).json()["forgotten"] == ["input", "outcome"]


async def test_what_is_not_to_be_stored_is_shared_with_no_one(client: httpx.AsyncClient) -> None:
    wish = {"prompt": "a circle", "seed": 7}
    for headers in ({"X-Fal-Store-IO": "0"}, {}):
        answer = await client.post("/test/deep/path/probe", json=wish, headers=headers)
        assert answer.headers.get("x-darkroom-cache") is None


async def test_store_io_takes_no_other_word(client: httpx.AsyncClient) -> None:
    answer = await client.post("/test/probe", json={}, headers={"X-Fal-Store-IO": "maybe"})
    assert answer.status_code == 422
