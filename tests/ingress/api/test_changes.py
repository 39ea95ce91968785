"""Changes of all requests of a tenant over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest

from serve_app.ingress.api.changes import MAX_EXPANDED, Expand, stream
from serve_app.ingress.api.requests import RequestSummary, summaries
from serve_app.tenants.scopes import READ, Caller
from tests.ingress.house import House

PROBE, OTHER = "test/probe", "fal-ai/flux/dev"


@asynccontextmanager
async def following(
    house: House, *endpoints: str, expand: Expand | None = None
) -> AsyncIterator[AsyncGenerator[bytes]]:
    caller = Caller("dk_1", "default", frozenset({READ}), endpoints=endpoints)
    changes = stream(house.queue, house.services.replica_changes, caller, 0.2, expand)
    async with aclosing(changes) as events:
        assert b"retry: " in await anext(events)
        assert read(await anext(events)) == {"requests": [], "complete": False}
        yield events


def read(event: bytes) -> dict[str, Any]:
    name, data = event.decode().strip().split("\n")
    assert name == "event: requests"
    body: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return body


async def test_a_client_is_told_which_requests_changed(idle: House) -> None:
    async with idle.client() as client, following(idle) as events:
        answer = await client.post(f"/queue/{PROBE}", json={})
        id_ = answer.json()["request_id"]
        known = {"request_id": id_, "endpoint_id": PROBE}
        assert read(await anext(events)) == {
            "requests": [{**known, "state": "queued"}],
            "complete": True,
        }
        await client.put(f"/v1/requests/{id_}/cancel")
        assert read(await anext(events))["requests"] == [{**known, "state": "cancelled"}]
        await client.delete(f"/v1/requests/{id_}")
        assert read(await anext(events))["requests"] == [{**known, "state": None}]


async def test_a_client_may_get_each_request_as_it_is_listed(idle: House) -> None:
    http = HttpRequest(
        {
            "type": "http",
            "app": idle.app,
            "scheme": "http",
            "server": ("darkroom", 80),
            "path": "/v1/events",
            "query_string": b"",
            "headers": [],
        }
    )

    async def expand(ids: Sequence[str]) -> Mapping[str, RequestSummary]:
        return await summaries(http, "default", ids)

    async with idle.client() as client, following(idle, expand=expand) as events:
        ids = [(await client.post(f"/queue/{PROBE}", json={})).json()["request_id"]]
        listed = (await client.get("/v1/requests")).json()["requests"]
        (told,) = read(await anext(events))["requests"]
        assert (told["request_id"], told["request"]) == (ids[0], listed[0])
        await client.put(f"/v1/requests/{ids[0]}/cancel")
        await client.delete(f"/v1/requests/{ids[0]}")
        assert "request" not in read(await anext(events))["requests"][0]
        for _ in range(MAX_EXPANDED + 1):
            await client.post(f"/queue/{PROBE}", json={})
        many = read(await anext(events))["requests"]
        assert len(many) == MAX_EXPANDED + 1
        assert not any("request" in each for each in many)


async def test_another_expansion_is_refused(idle: House) -> None:
    async with idle.client() as client:
        answer = await client.get("/v1/events?expand=output")
    assert answer.status_code == 422


async def test_a_client_is_told_that_replicas_changed(idle: House) -> None:
    rows = [{"replica_id": "r1", "stage": "ready", "hot": [], "seen_s": 0.5}]

    async def replicas() -> list[dict[str, Any]]:
        return rows

    idle.services.health = replace(idle.services.health, replicas=replicas)
    async with following(idle) as events:
        rows = [rows[0] | {"seen_s": 1.5}]
        assert [await anext(events) for _ in range(4)] == 4 * [b": nothing new\n\n"]
        rows = [rows[0] | {"hot": [PROBE]}]
        told = [await anext(events) for _ in range(10)]
        assert told.count(b"event: replicas\ndata: {}\n\n") == 1


async def test_a_silent_stream_stays_open(idle: House) -> None:
    async with following(idle) as events:
        assert await anext(events) == b": nothing new\n\n"


async def test_a_key_of_some_endpoints_is_told_of_their_requests_only(idle: House) -> None:
    async with idle.client() as client, following(idle, OTHER) as events:
        await client.post(f"/queue/{PROBE}", json={})
        assert await anext(events) == b": nothing new\n\n"


async def test_another_tenant_s_changes_are_not_told(idle: House) -> None:
    async with idle.client(idle.other_key) as other, following(idle) as events:
        await other.post(f"/queue/{PROBE}", json={})
        assert await anext(events) == b": nothing new\n\n"


async def test_the_call_needs_a_key(idle: House) -> None:
    async with idle.client() as client:
        answer = await client.get("/v1/events", headers={"Authorization": ""})
    assert answer.status_code == 401
