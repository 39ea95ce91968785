"""Addresses of streams that hold a token, as Replicate's JavaScript client reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.ingress.house import House

PREDICTIONS = "/replicate/v1/models/test/probe/predictions"


@pytest.fixture
async def anonymous(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client() as client:
        del client.headers["authorization"]
        yield client


async def create_prediction(client: httpx.AsyncClient) -> dict[str, str]:
    """Addresses of a new prediction."""
    answer = await client.post(PREDICTIONS, json={"input": {"echo": 1}})
    assert answer.status_code == 201
    return answer.json()["urls"]


async def test_a_stream_is_read_by_its_address_alone(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    urls = await create_prediction(client)
    answer = await anonymous.get(urls["stream"])
    assert answer.status_code == 200
    assert "event: done" in answer.text
    again = (await client.get(urls["get"])).json()["urls"]["stream"]
    assert (await anonymous.get(again)).status_code == 200


async def test_the_token_shows_no_other_request_and_allows_no_other_call(
    client: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    first, second = await create_prediction(client), await create_prediction(client)
    query = first["stream"].partition("?")[2]
    other = second["stream"].partition("?")[0]
    assert (await anonymous.get(f"{other}?{query}")).status_code == 401
    assert (await anonymous.get(other)).status_code == 401
    for method, url in [("GET", first["get"]), ("POST", first["cancel"])]:
        assert (await anonymous.request(method, f"{url}?{query}")).status_code == 401
    token = query.partition("=")[2]
    submit = await anonymous.post(f"/test/probe/stream?fal_jwt_token={token}", json={})
    assert submit.status_code == 401
    upload = {"authorization": f"Bearer {token}"}
    assert (await anonymous.get(first["get"], headers=upload)).status_code == 401


async def test_the_token_ends_with_its_key(house: House, anonymous: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Key {house.weak_key}"}
    answer = await anonymous.post(PREDICTIONS, json={"input": {}}, headers=headers)
    stream = answer.json()["urls"]["stream"]
    assert (await anonymous.get(stream)).status_code == 200
    await house.keys.revoke(house.weak_key.partition(":")[0])
    refused = await anonymous.get(stream)
    assert refused.status_code == 401
    assert "title" in refused.json(), "an error as Replicate's"


async def test_a_list_has_addresses_without_tokens(client: httpx.AsyncClient) -> None:
    await create_prediction(client)
    page = (await client.get("/replicate/v1/predictions")).json()
    assert all(prediction["urls"]["stream"].endswith("/stream") for prediction in page["results"])
