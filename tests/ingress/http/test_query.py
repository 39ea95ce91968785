"""Query parameters that PostgreSQL cannot store, and numbers that Python refuses to read."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/usage", "endpoint_id"),
        ("/v1/models/requests/by-endpoint", "endpoint_id"),
        ("/v1/requests", "endpoint_id"),
        ("/v1/webhooks", "tenant"),
        ("/v1/keys", "tenant"),
        ("/v1/requests/x/fail", "reason"),
    ],
)
async def test_a_null_character_is_refused_before_postgresql_does(
    client: httpx.AsyncClient, path: str, name: str
) -> None:
    method = "PUT" if path.endswith("/fail") else "GET"
    answer = await client.request(method, path, params={name: "a\0b"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", name]


@pytest.mark.parametrize("number", ["9" * 30, "9" * 5000, "0" * 9 + "9" * 30, "-1", "²", ""])
@pytest.mark.parametrize("name", ["before", "limit"])
async def test_a_number_out_of_bounds_is_refused_however_long_it_is(
    client: httpx.AsyncClient, name: str, number: str
) -> None:
    answer = await client.get("/v1/audit", params={name: number})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", name]


async def test_the_longest_queue_is_refused_when_it_has_thousands_of_digits(
    client: httpx.AsyncClient,
) -> None:
    wish = {"fal_max_queue_length": "9" * 5000}
    answer = await client.post("/queue/test/probe", json={}, params=wish)
    assert answer.status_code == 422
    assert "at most 18 digits" in answer.json()["message"]
