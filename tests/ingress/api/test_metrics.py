"""``/metrics`` on the public port, and the metrics of the ingress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from prometheus_client import CONTENT_TYPE_LATEST

from serve_app.domain.errors import StorageUnavailable
from tests.ingress.house import House, build_house
from tests.ingress.socket import connect
from tests.telemetry.reading import parse_series
from tests.webhooks.receiver import Receiver, Reply, always

ENDPOINT = "fal-ai/flux/schnell"
BODY = {"prompt": "a red circle"}


async def value(house: House, name: str, **labels: str) -> float | None:
    async with house.client() as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    return parse_series(answer.text).get((f"darkroom_{name}", frozenset(labels.items())))


async def until(house: House, true: Callable[[float], bool], name: str, **labels: str) -> None:
    end = time.monotonic() + 120
    while not true(seen := await value(house, name, **labels) or 0.0):
        assert time.monotonic() < end, f"{name} {labels} stays {seen}"
        await asyncio.sleep(0.1)


async def test_metrics_need_a_key_with_the_scope_admin(house: House) -> None:
    async with house.client() as client:
        answer = await client.get("/metrics")
        assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE_LATEST)
        assert ("darkroom_webhooks_pending", frozenset()) in parse_series(answer.text)
        nobody = await client.get("/metrics", headers={"authorization": ""})
        assert nobody.status_code == 401
    async with house.client(house.weak_key) as client:
        weak = await client.get("/metrics")
        assert weak.status_code == 403
    assert "darkroom_" not in nobody.text + weak.text


async def test_a_refused_submit_is_counted_by_the_limit(idle: House) -> None:
    async with build_house(replica=False, max_waiting_per_tenant=1) as house:
        async with house.client() as client:
            assert (await client.post(f"/queue/{ENDPOINT}", json=BODY)).status_code == 200
            assert await value(house, "refused_total", status="429", reason="tenant_limit") is None
            assert (await client.post(f"/queue/{ENDPOINT}", json=BODY)).status_code == 429
        assert await value(house, "refused_total", status="429", reason="tenant_limit") == 1


async def test_a_refused_upload_and_a_refused_session_are_counted_by_the_limit() -> None:
    async with build_house(max_open_uploads_per_tenant=1, max_sessions_per_tenant=1) as house:
        async with house.client() as client:
            begun = await client.post("/rest/storage/upload/initiate", json={})
            refused = await client.post("/rest/storage/upload/initiate", json={})
            assert (begun.status_code, refused.status_code) == (200, 429)
        async with connect(house) as first:
            first.send(echo=1)
            assert (await first.hear())["echo"] == 1
            async with connect(house) as second:
                await second.hear()
                assert await second.end() == 1013
        for reason in ("open_uploads_limit", "sessions_limit"):
            assert await value(house, "refused_total", status="429", reason=reason) == 1


async def test_a_submit_to_a_draining_endpoint_is_counted_as_refused(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    await idle_client.put(f"/v1/endpoints/{ENDPOINT}/drain")
    assert (await idle_client.post(f"/queue/{ENDPOINT}", json=BODY)).status_code == 503
    assert await value(idle, "refused_total", status="503", reason="endpoint_draining") == 1


async def test_a_repeated_submit_is_counted_as_a_replay(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    headers = {"idempotency-key": "order-1"}
    for _ in range(3):
        await idle_client.post(f"/queue/{ENDPOINT}", json=BODY, headers=headers)
    assert await value(idle, "replays_total", endpoint=ENDPOINT) == 2
    assert await value(idle, "requests_total", endpoint=ENDPOINT, state="queued") == 1


async def test_an_outcome_that_is_used_again_is_counted(
    house: House, client: httpx.AsyncClient
) -> None:
    headers = {"x-darkroom-cache": "allow"}
    body = {**BODY, "seed": 7}
    for _ in range(2):
        answer = await client.post(f"/run/{ENDPOINT}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
    assert await value(house, "reused_total", endpoint=ENDPOINT) == 1


@pytest.mark.long
async def test_a_receiver_that_fails_opens_its_breaker_until_it_answers() -> None:
    async with (
        Receiver(always(Reply(status=500))) as receiver,
        build_house(
            deliver=True, allow_private_webhooks=True, webhook_waits_s=[0.01] * 12
        ) as house,
        house.client() as client,
    ):
        url = receiver.url()
        await client.post(f"/queue/{ENDPOINT}", params={"fal_webhook": url}, json=BODY)
        await until(house, lambda n: n >= 5, "webhook_seconds_count", result="5xx")
        await until(house, lambda n: n == 1, "webhook_breakers_open", of="receiver")
        assert await value(house, "webhook_breakers_open", of="tenant") == 0


async def test_a_file_of_a_client_is_counted_while_it_arrives_and_once_it_is_stored(
    house: House, client: httpx.AsyncClient
) -> None:
    half_sent, rest = asyncio.Event(), asyncio.Event()

    async def halves() -> AsyncIterator[bytes]:
        yield b"half"
        half_sent.set()
        await rest.wait()
        yield b"rest"

    upload = asyncio.create_task(client.post("/cdn/files/upload", content=halves()))
    await half_sent.wait()
    await until(house, lambda n: n == 1, "uploads_open", sender="client")
    rest.set()
    assert (await upload).status_code == 200
    assert await value(house, "uploads_open", sender="client") == 0
    assert await value(house, "upload_bytes_total", sender="client") == 8
    seconds = "upload_seconds_count"
    assert await value(house, seconds, sender="client", result="stored") == 1
    house.storage.away = StorageUnavailable("It is away.")
    answer = await client.post("/cdn/files/upload", content=b"more")
    assert answer.status_code == 503
    assert await value(house, seconds, sender="client", result="storage_unavailable") == 1
    assert await value(house, "refused_total", status="503", reason="storage_unavailable") == 1


async def test_a_file_of_a_replica_is_counted(house: House, client: httpx.AsyncClient) -> None:
    ticket = house.storage.ticket("a/1/0.png", "image/png", 100, 60.0)
    answer = await client.put(ticket.url, content=b"png", headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    assert await value(house, "upload_bytes_total", sender="replica") == 3
