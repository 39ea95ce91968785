"""fal's header for the time that the files of a request are kept."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve_app.ingress.submission.lifecycle import LIFECYCLE_HEADERS
from tests.ingress.house import House

PROBE = "/queue/test/probe"


async def submit_request(
    client: httpx.AsyncClient, value: Any, name: str = LIFECYCLE_HEADERS[1]
) -> httpx.Response:
    return await client.post(PROBE, json={"echo": 1}, headers={name: json.dumps(value)})


@pytest.mark.parametrize("name", LIFECYCLE_HEADERS)
async def test_it_is_written_down_for_the_request(
    idle: House, idle_client: httpx.AsyncClient, name: str
) -> None:
    answer = await submit_request(idle_client, {"expiration_duration_seconds": 3600}, name)
    assert answer.status_code == 200
    assert idle.lifecycles.kept_s == {answer.json()["request_id"]: 3600}


async def test_without_a_time_nothing_is(idle: House, idle_client: httpx.AsyncClient) -> None:
    for value in ({}, {"expiration_duration_seconds": None}):
        assert (await submit_request(idle_client, value)).status_code == 200
    assert idle.lifecycles.kept_s == {}


@pytest.mark.parametrize("value", [{"expiration_duration_seconds": 0}, {"other": 1}, [], "x"])
async def test_one_that_is_wrong_is_named(idle_client: httpx.AsyncClient, value: Any) -> None:
    answer = await submit_request(idle_client, value)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", LIFECYCLE_HEADERS[1]]


async def test_an_outcome_whose_files_go_is_given_to_no_one_else(
    client: httpx.AsyncClient,
) -> None:
    shared = {"X-Darkroom-Cache": "allow"}
    hasty = {LIFECYCLE_HEADERS[1]: json.dumps({"expiration_duration_seconds": 60})} | shared
    hits: list[bool] = []
    for headers in (hasty, hasty, shared, hasty, shared):
        answer = await client.post("/run/test/probe", json={"seed": 1}, headers=headers)
        assert answer.status_code == 200
        hits.append("x-darkroom-cache" in answer.headers)
    assert hits == [False, False, False, False, True]
