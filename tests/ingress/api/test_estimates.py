"""Estimates of requests that are not submitted."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from serve_app.ingress.api.estimates import stream
from serve_app.ingress.submission.options import SubmitOptions
from serve_app.ingress.submission.submission import validate
from serve_app.tenants.scopes import SUBMIT, Caller
from tests.ingress.fal.test_submit import submit, wait_until_completed
from tests.ingress.house import House

PROBE = "test/probe"


async def fetch_estimate(client: httpx.AsyncClient, **input: Any) -> dict[str, Any]:
    answer = await client.post("/v1/estimate", json={"endpoint_id": PROBE, "input": input})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_estimate_knows_the_seconds_once_a_request_has_run_and_stores_nothing(
    client: httpx.AsyncClient,
) -> None:
    assert (await fetch_estimate(client))["runs_s"] is None
    await wait_until_completed(client, await submit(client))
    estimate = await fetch_estimate(client)
    assert (estimate["endpoint_id"], estimate["queue_position"]) == (PROBE, 0)
    assert estimate["runs_s"] > 0
    assert (estimate["starts_in_s"], estimate["waiting"]) == (0, None)
    assert estimate["ends_in_s"] == pytest.approx(estimate["runs_s"], rel=0.01)  # of three digits
    assert estimate["weights"] in {"hot", "warm", "cold"}
    assert len((await client.get("/v1/requests")).json()["requests"]) == 1


async def test_an_estimate_says_why_a_request_would_wait(client: httpx.AsyncClient) -> None:
    await wait_until_completed(client, await submit(client))
    paused = await client.put(f"/v1/endpoints/{PROBE}/pause")
    assert paused.status_code == 200, paused.text
    estimate = await fetch_estimate(client)
    assert estimate["waiting"]["reason"] == "paused"
    assert estimate["starts_in_s"] is None


async def test_a_stream_sends_an_estimate_and_each_change_of_it(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    caller = Caller("dk_1", "default", frozenset({SUBMIT}))
    options = SubmitOptions()
    new = await validate(
        idle.services, caller, PROBE, {}, options, request_id="r1", only_estimated=True
    )
    async with aclosing(stream(idle.services, caller, new)) as events:
        assert b"retry: " in await anext(events)
        assert read(await anext(events))["queue_position"] == 0
        submitted = await submit(idle_client)
        while read(await anext(events))["queue_position"] != 1:
            pass
        await idle_client.put(submitted["cancel_url"])
        while read(await anext(events))["queue_position"] != 0:
            pass


async def test_a_refused_input_is_refused_before_a_stream_begins(client: httpx.AsyncClient) -> None:
    headers = {"accept": "text/event-stream"}
    answer = await client.post("/v1/estimate", json={"endpoint_id": "no/such"}, headers=headers)
    assert answer.status_code == 404


def read(event: bytes) -> dict[str, Any]:
    return json.loads(event.decode().removeprefix("data: "))


async def test_an_input_that_a_submit_refuses_has_no_estimate(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {
        "endpoint_id": "fal-ai/flux/schnell",
        "input": {"prompt": "a hill", "num_inference_steps": "many"},
    }
    answer = await client.post("/v1/estimate", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == "num_inference_steps"
    answer = await client.post("/v1/estimate", json={"endpoint_id": "no/such"})
    assert answer.status_code == 404
    answer = await client.post("/v1/estimate", json={"input": {}})
    assert answer.json()["detail"][0]["loc"] == ["body", "endpoint_id"]


async def test_an_estimate_needs_a_key(house: House) -> None:
    async with house.client("dk_0000000000000000:0") as stranger:
        answer = await stranger.post("/v1/estimate", json={"endpoint_id": PROBE})
        assert answer.status_code == 401
