"""`X-Fal-No-Retry` and `X-Fal-Retry-Config`: retries of a failed request."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.ingress.house import House

RUN = "/test/probe"
FULL = {"fail": "out_of_memory", "retryable": True}


def config(**retries: Any) -> dict[str, str]:
    policies = {cause: {"retries": count} for cause, count in retries.items()}
    return {"X-Fal-Retry-Config": json.dumps(policies)}


async def tries(house: House, client: httpx.AsyncClient, headers: dict[str, str]) -> int:
    before = len(house.replica.ran)
    answer = await client.post(RUN, json=FULL, headers=headers)
    assert answer.status_code == 500
    return len(house.replica.ran) - before


@pytest.mark.parametrize(
    ("headers", "most"),
    [
        ({}, 3),
        ({"X-Fal-No-Retry": "0"}, 3),
        ({"X-Fal-No-Retry": "1"}, 1),
        ({"X-Fal-No-Retry": "TRUE"}, 1),
        ({"X-Fal-No-Retry": "yes"}, 1),
        (config(server_error=1), 2),
        (config(server_error=5), 6),
        (config(server_error=500), 10),
        (config(connection_error=0), 3),
        ({**config(server_error=5), "X-Fal-No-Retry": "1"}, 1),
        ({"X-Fal-No-Retry": "1", **config(server_error=5)}, 1),
        ({"X-Fal-No-Retry": "no", **config(server_error=5)}, 6),
    ],
)
async def test_it_is_tried_as_often_as_they_say(
    house: House, client: httpx.AsyncClient, headers: dict[str, str], most: int
) -> None:
    assert await tries(house, client, headers) == most


async def test_an_error_of_the_model_is_tried_once(house: House, client: httpx.AsyncClient) -> None:
    orders = {"fail": "pipeline_failed"}
    answer = await client.post(RUN, json=orders, headers=config(server_error=5))
    assert (answer.status_code, len(house.replica.ran)) == (500, 1)
    assert answer.headers["x-fal-retryable"] == "false"


async def test_what_is_left_is_shown_and_what_is_not_allowed_is_refused(
    client: httpx.AsyncClient,
) -> None:
    headers = config(server_error=1, timeout=7)
    submitted = (await client.post("/queue/test/probe", json=FULL, headers=headers)).json()
    while True:
        answer = await client.get(submitted["status_url"], params={"logs": "1"})
        if answer.status_code == 200:
            break
    status = answer.json()
    assert status["darkroom"]["retries_left"] == {
        "timeout": 2,
        "server_error": 0,
        "connection_error": 2,
    }
    lines = [line["message"] for line in status["logs"]]
    assert "Retries left: timeout 2, server error 1, connection error 2." in lines[0]
    assert any("asks for 7 retries after a timeout; this installation allows 2" in x for x in lines)
    shown = (await client.get(f"/v1/requests/{submitted['request_id']}")).json()
    assert (shown["failures"], shown["retries_left"]["server_error"]) == (2, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Fal-No-Retry", "maybe"),
        ("X-Fal-Retry-Config", "{"),
        ("X-Fal-Retry-Config", "[]"),
        ("X-Fal-Retry-Config", '{"weather": {"retries": 1}}'),
        ("X-Fal-Retry-Config", '{"timeout": 3}'),
        ("X-Fal-Retry-Config", '{"timeout": {"retries": -1}}'),
        ("X-Fal-Retry-Config", '{"timeout": {"retries": true}}'),
        ("X-Fal-Retry-Config", '{"timeout": {"retries": 1, "delay": 2}}'),
    ],
)
async def test_what_cannot_be_read_is_refused_by_its_name(
    house: House, client: httpx.AsyncClient, name: str, value: str
) -> None:
    answer = await client.post(RUN, json={}, headers={name: value})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", name]
    assert name in answer.json()["message"]
    assert house.replica.ran == []


async def test_they_count_in_other_protocols_too(house: House, client: httpx.AsyncClient) -> None:
    before = len(house.replica.ran)
    answer = await client.post(
        "/replicate/v1/models/test/probe/predictions",
        json={"input": FULL},
        headers={"X-Fal-No-Retry": "1", "Prefer": "wait"},
    )
    assert answer.json()["status"] == "failed"
    assert len(house.replica.ran) - before == 1


async def test_thousands_of_brackets_are_no_configuration(client: httpx.AsyncClient) -> None:
    answer = await client.post(RUN, json={}, headers={"X-Fal-Retry-Config": "[" * 5000})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "X-Fal-Retry-Config"]
