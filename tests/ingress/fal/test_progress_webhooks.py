"""fal's webhooks with progress messages."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.ingress.fal.webhooks import MIN_INTERVAL_S
from tests.ingress.house import House, build_house
from tests.webhooks.fals_verification import verify_webhook
from tests.webhooks.receiver import Receiver, Reply, always

LONG = {"sleep_s": 2.6, "steps": 26}
PATH = "/queue/test/probe"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(
        deliver=True, allow_private_webhooks=True, webhook_waits_s=(0.0,)
    ) as house:
        yield house


async def submit_and_wait(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], **query: str
) -> str:
    """Id of a request whose end was delivered."""
    answer = await client.post(PATH, params={"fal_webhook": url, **query}, json=body)
    assert answer.status_code == 200, answer.text
    request_id = str(answer.json()["request_id"])
    async with asyncio.timeout(120):
        while True:
            shown = (await client.get(f"/v1/requests/{request_id}/webhook")).json()
            if shown.get("state") in ("delivered", "dead"):
                return request_id
            await asyncio.sleep(0.02)


async def test_a_client_that_asks_for_it_gets_progress_and_then_the_end(
    house: House, receiver: Receiver
) -> None:
    began = time.monotonic()
    async with house.client() as client:
        request_id = await submit_and_wait(
            client, receiver.url("/hook"), LONG, fal_webhook_progress="1"
        )
        keys = (await client.get("/.well-known/jwks.json")).json()
    *before, end = [json.loads(posted.body) for posted in receiver.received]
    assert (end["status"], end["request_id"]) == ("OK", request_id)
    assert {event["status"] for event in before} == {"IN_PROGRESS"}
    assert {event["request_id"] for event in before} == {request_id}
    assert {event["darkroom"]["stage"] for event in before} == {"denoising"}
    steps = [event["darkroom"]["step"] for event in before]
    assert steps == sorted(set(steps))  # in order, each later than the one before
    assert 2 <= len(before) <= 1 + (time.monotonic() - began) / MIN_INTERVAL_S
    assert receiver.most_at_once == 1
    for delivery in receiver.received:
        assert delivery.target == "/hook"
        assert verify_webhook(delivery.headers, delivery.body, keys)


@pytest.mark.parametrize("query", [{}, {"fal_webhook_progress": "0"}])
async def test_a_client_that_does_not_ask_gets_the_end_alone(
    house: House, receiver: Receiver, query: dict[str, str]
) -> None:
    async with house.client() as client:
        await submit_and_wait(client, receiver.url(), LONG, **query)
    assert [json.loads(delivery.body)["status"] for delivery in receiver.received] == ["OK"]


async def test_a_progress_call_that_fails_is_not_repeated_and_the_end_is_still_sent(
    house: House,
) -> None:
    async with Receiver(always(Reply(status=500))) as receiver, house.client() as client:
        await submit_and_wait(client, receiver.url(), LONG, fal_webhook_progress="true")
    bodies = [delivery.body for delivery in receiver.received]
    before = [body for body in bodies if json.loads(body)["status"] == "IN_PROGRESS"]
    assert len(before) == len(set(before)) >= 1
    assert json.loads(bodies[-1])["status"] == "OK"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (PATH, {"fal_webhook_progress": "1"}),
        (PATH, {"fal_webhook_progress": "yes", "fal_webhook": "http://127.0.0.1/"}),
        ("/test/probe", {"fal_webhook_progress": "1", "fal_webhook": "http://127.0.0.1/"}),
        ("/test/probe/stream", {"fal_webhook_progress": "1", "fal_webhook": "http://127.0.0.1/"}),
    ],
)
async def test_where_it_cannot_be_determined_it_is_refused_by_name(
    house: House, path: str, query: dict[str, str]
) -> None:
    async with house.client() as client:
        answer = await client.post(path, params=query, json={})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "fal_webhook_progress"]
