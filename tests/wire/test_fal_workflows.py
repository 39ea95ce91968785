"""fal's own Python client, unmodified, calls workflows as it calls any endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import pytest

import fal_plain_http
from tests.ingress.house import OTHERS
from tests.ingress.workflows.test_running import DOCUMENTED, POSTER, PROBE, steps_form
from tests.wire.served import Address, serve
from tests.wire.test_fal_python_client import GLOBALS
from tests.wire.test_webhooks import Receiver

pytestmark = pytest.mark.wire

ENDPOINT = "workflows/default/poster"
FLOW = "workflows/default/flow"


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(
        catalog=OTHERS,
        documented=DOCUMENTED,
        workflows=True,
        deliver=True,
        allow_private_webhooks=True,
    ) as address:
        yield address


@pytest.fixture
def client(address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    for name in GLOBALS:  # so that they are restored afterwards
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    fal_plain_http.use(address.url)
    client = fal_client.SyncClient(key=address.key)
    yield client
    client._client.close()


@pytest.fixture
def api(address: Address) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Key {address.key}"}
    with httpx.Client(base_url=address.url, headers=headers, trust_env=False) as api:
        yield api


def register(api: httpx.Client, workflow: Any) -> None:
    answer = api.post("/v1/workflows", json=workflow)
    assert answer.status_code == 200, answer.text


def test_subscribe(client: fal_client.SyncClient, api: httpx.Client) -> None:
    register(api, POSTER)
    seen: list[fal_client.Status] = []
    output = client.subscribe(
        ENDPOINT, {"idea": "a dog"}, with_logs=True, on_queue_update=seen.append
    )
    assert httpx.get(output["picture"]["url"], trust_env=False).content == b"image"
    last = seen[-1]
    assert isinstance(last, fal_client.Completed)
    assert last.logs is not None
    assert any("Step big is request" in line["message"] for line in last.logs)


def test_the_input_is_validated_before_anything_is_queued(
    client: fal_client.SyncClient, api: httpx.Client
) -> None:
    register(api, POSTER)
    with pytest.raises(fal_client.FalClientHTTPError) as refused:
        client.submit(ENDPOINT, {})
    assert refused.value.status_code == 422
    assert "idea" in str(refused.value)


def test_submit_result_and_cancel(client: fal_client.SyncClient, api: httpx.Client) -> None:
    register(api, POSTER)
    handle = client.submit(ENDPOINT, {"idea": "a cat"})
    assert handle.get()["said"].startswith("http")
    steps = api.get(f"/v1/requests/{handle.request_id}/steps").json()["workflow"]["steps"]
    assert [step["node_id"] for step in steps] == ["draw", "big"]
    slow = {"wait": {"app": PROBE, "input": {"sleep_s": 120}}}
    register(api, steps_form(slow, {"x": "$wait.echo"}))
    stopped = client.submit(FLOW, {})
    stopped.cancel()
    with pytest.raises(fal_client.FalClientHTTPError) as ended:
        stopped.get()
    assert ended.value.status_code == 499


def test_stream_has_fals_events_of_workflows(
    client: fal_client.SyncClient, api: httpx.Client
) -> None:
    register(api, POSTER)
    events = [*client.stream(ENDPOINT, {"idea": "a bird"})]
    assert [(event["type"], event.get("node_id")) for event in events] == [
        ("submit", "draw"),
        ("completion", "draw"),
        ("submit", "big"),
        ("completion", "big"),
        ("output", None),
    ]
    assert events[0]["app_id"] == "test/images"
    assert events[1]["output"]["images"][0]["url"].startswith("http")
    assert events[-1]["output"]["picture"]["content_type"] == "image/png"


def test_a_stream_ends_with_the_error_of_the_step(
    client: fal_client.SyncClient, api: httpx.Client
) -> None:
    failing = {"bad": {"app": PROBE, "input": {"fail": "pipeline_failed", "sleep_s": 0.2}}}
    register(api, steps_form(failing, {"x": "$bad.echo"}))
    seen: list[Any] = []
    with pytest.raises((httpx.HTTPError, fal_client.FalClientError)):
        seen += client.stream(FLOW, {})
    lines: list[str] = []
    with (
        pytest.raises(httpx.RemoteProtocolError),
        api.stream("POST", f"/{FLOW}/stream", json={}) as answer,
    ):
        lines.extend(answer.iter_lines())
    text = "\n".join(lines)
    assert "event: error" in text
    assert '"type":"error","node_id":"bad"' in text.replace(": ", ":").replace(", ", ",")


def test_one_webhook_is_called_for_the_whole(
    address: Address, client: fal_client.SyncClient, api: httpx.Client, tmp_path: Path
) -> None:
    register(api, POSTER)
    receiver = Receiver(address, tmp_path)
    try:
        handle = client.submit(ENDPOINT, {"idea": "x"}, webhook_url=receiver.url)
        called = receiver.next_body()
    finally:
        receiver.close()
    assert called["request_id"] == handle.request_id
    assert called["payload"]["picture"]["content_type"] == "image/png"


async def test_async_subscribe(
    address: Address, client: fal_client.SyncClient, api: httpx.Client
) -> None:
    del client  # it has pointed the names of fal's hosts here
    await asyncio.to_thread(register, api, POSTER)
    async_client = fal_client.AsyncClient(key=address.key)
    output = await async_client.subscribe(ENDPOINT, {"idea": "x"})
    assert output["picture"]["file_size"] == len(b"image")
    await (await async_client._client).aclose()
