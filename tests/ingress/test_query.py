"""Query parameters that no database takes."""

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
    ],
)
async def test_a_null_character_is_refused_before_postgresql_does(
    client: httpx.AsyncClient, path: str, name: str
) -> None:
    answer = await client.get(path, params={name: "a\0b"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", name]
