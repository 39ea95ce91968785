"""Following one request over HTTP: its events, and the call that waits for a change."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.progress import Loading, Stage, to_plain
from serve_app.domain.request import State
from serve_app.ingress.api.events import stream
from tests.ingress.house import House


async def submit_request(client: httpx.AsyncClient, **orders: Any) -> str:
    answer = await client.post("/queue/test/probe", json=orders)
    return str(answer.json()["request_id"])


async def events(
    client: httpx.AsyncClient, request_id: str, after: str | None = None
) -> list[dict[str, str]]:
    """Whole stream, once it has ended."""
    headers = {} if after is None else {"Last-Event-ID": after}
    answer = await client.get(f"/v1/requests/{request_id}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [part.splitlines() for part in answer.text.split("\n\n") if part]
    fields = [dict(line.split(": ", 1) for line in block if line[0] != ":") for block in blocks]
    return [event for event in fields if "event" in event]


async def test_a_request_is_followed_to_its_end(client: httpx.AsyncClient) -> None:
    received = await events(client, await submit_request(client, sleep_s=0.2))
    states = [json.loads(event["data"])["state"] for event in received if event["event"] == "state"]
    assert states == ["queued", "running", "succeeded"]
    assert received[-1]["event"] == "state"
    progress = [json.loads(event["data"]) for event in received if event["event"] == "progress"]
    assert all(report["attempt"] == 1 for report in progress)
    assert all({"stage", "step", "steps", "rate", "left_s"} <= report.keys() for report in progress)
    assert all("id" not in event for event in received if event["event"] == "progress")


async def test_a_client_that_waits_gets_the_place_the_reason_and_how_far_a_cold_start_is(
    idle: House,
) -> None:
    presence = Presence("r1", "actor-r1", "studio", ReplicaStage.STARTING)
    loading = Loading(("test/probe",), Stage.DOWNLOADING, 1, 4)
    async with idle.client() as client:
        request = await idle.queue.get("default", await submit_request(client))
        await idle.queue.announce(replace(presence, pool=request.pool, loading=to_plain([loading])))
        received = stream(idle.queue, request, 0)
        async with aclosing(received):
            texts = [text async for text in _until(received, "event: waiting")]
    waiting = json.loads(texts[-1].split("data: ")[1])
    assert (waiting["position"], waiting["reason"]) == (0, "cold_start")
    assert (waiting["stage"], waiting["share"]) == ("downloading", 0.25)
    assert {"detail", "starts_at", "ends_at"} <= waiting.keys()
    assert "id: " not in texts[-1]


async def _until(events: AsyncIterator[bytes], beginning: str) -> AsyncIterator[str]:
    async for event in events:
        yield (text := event.decode())
        if text.startswith(beginning):
            return


async def test_last_event_id_resumes_and_after_the_end_there_is_nothing(
    client: httpx.AsyncClient,
) -> None:
    request_id = await submit_request(client)
    ids = [event["id"] for event in await events(client, request_id) if "id" in event]
    assert ids == [str(n) for n in range(1, len(ids) + 1)]
    assert [event["id"] for event in await events(client, request_id, ids[0])] == ids[1:]
    over = await client.get(f"/v1/requests/{request_id}/events", headers={"Last-Event-ID": ids[-1]})
    assert (over.status_code, over.content) == (204, b"")


@pytest.mark.parametrize("last_event_id", ["-1", "x", "1.5", "9" * 30])
async def test_a_last_event_id_that_is_none_is_refused(
    idle_client: httpx.AsyncClient, last_event_id: str
) -> None:
    path = f"/v1/requests/{await submit_request(idle_client)}/events"
    answer = await idle_client.get(path, headers={"Last-Event-ID": last_event_id})
    assert answer.status_code == 422
    assert "Last-Event-ID" in answer.json()["message"]


async def test_anothers_request_has_no_events(house: House) -> None:
    async with house.client() as mine, house.client(house.other_key) as other:
        answer = await other.get(f"/v1/requests/{await submit_request(mine)}/events")
    assert answer.status_code == 404


async def test_a_call_that_waits_is_answered_at_the_next_change(idle: House) -> None:
    async with idle.client() as client:
        path = f"/v1/requests/{await submit_request(client)}"
        seen = (await client.get(path)).json()["version"]
        waiting = asyncio.create_task(client.get(path, params={"wait": 30, "since": seen}))
        await idle.queue.cancel("default", path.rsplit("/", 1)[1])
        answer = (await asyncio.wait_for(waiting, 25)).json()
        assert (answer["state"], answer["version"] != seen) == ("cancelled", True)


async def test_a_change_between_two_calls_is_not_missed(idle: House) -> None:
    async with idle.client() as client:
        request_id = await submit_request(client)
        path = f"/v1/requests/{request_id}"
        seen = (await client.get(path)).json()["version"]
        await idle.queue.log(request_id, ("INFO", "Hello."))
        began = time.monotonic()
        answer = await client.get(path, params={"wait": 30, "since": seen})
        assert time.monotonic() - began < 25.0
        assert answer.json()["log"][-1]["message"] == "Hello."


async def test_a_call_waits_no_longer_than_it_said(idle_client: httpx.AsyncClient) -> None:
    path = f"/v1/requests/{await submit_request(idle_client)}"
    answer = await asyncio.wait_for(idle_client.get(path, params={"wait": 1}), 25)
    assert answer.json()["state"] == State.QUEUED


@pytest.mark.parametrize("wait", ["61", "-1", "x", ""])
async def test_a_wait_out_of_bounds_is_refused(idle_client: httpx.AsyncClient, wait: str) -> None:
    path = f"/v1/requests/{await submit_request(idle_client)}"
    assert (await idle_client.get(path, params={"wait": wait})).status_code == 422
