"""fal's own Python client, unmodified, against Darkroom.

The endpoint ``test/probe`` follows its input: ``echo`` is returned, ``sleep_s`` takes time,
``artifacts`` makes files, ``fail`` fails.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import fal_client
import fal_client.client
import httpx
import pytest

import fal_plain_http

pytestmark = pytest.mark.wire

GLOBALS = ("RUN_URL_FORMAT", "QUEUE_URL_FORMAT", "REALTIME_URL_FORMAT", "REST_URL", "CDN_URL")
PROBE = "test/probe"
FLUX = "fal-ai/flux/schnell"


@pytest.fixture(autouse=True)
def pointed_here(darkroom_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GLOBALS:  # so that they are restored afterwards
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    fal_plain_http.use(darkroom_url)


@pytest.fixture
def client(darkroom_key: str) -> Iterator[fal_client.SyncClient]:
    client = fal_client.SyncClient(key=darkroom_key)
    yield client
    client._client.close()


@pytest.fixture
async def async_client(darkroom_key: str) -> AsyncIterator[fal_client.AsyncClient]:
    client = fal_client.AsyncClient(key=darkroom_key)
    yield client
    await (await client._client).aclose()


def test_run(client: fal_client.SyncClient) -> None:
    assert client.run(PROBE, {"echo": {"a": 1}})["echo"] == {"a": 1}


def test_a_draft_is_made_and_finished(client: fal_client.SyncClient) -> None:
    drafted = client.subscribe(FLUX, {"prompt": "a dog", "draft": {"count": 3}})
    assert len(drafted["images"]) == len(drafted["drafts"]) == 3
    finished = client.subscribe(FLUX, {"from_draft": drafted["drafts"][1]["id"]})
    assert len(finished["images"]) == 1


async def test_run_async(async_client: fal_client.AsyncClient) -> None:
    assert (await async_client.run(PROBE, {"echo": "é"}))["echo"] == "é"


def test_submit_poll_and_get(client: fal_client.SyncClient) -> None:
    handle = client.submit(PROBE, {"echo": 7, "sleep_s": 0.3})
    seen = list(handle.iter_events(with_logs=True))
    assert isinstance(seen[-1], fal_client.Completed)
    assert all(isinstance(event, (fal_client.Queued, fal_client.InProgress)) for event in seen[:-1])
    assert seen[-1].error is None
    assert seen[-1].metrics["inference_time"] > 0
    assert seen[-1].logs[0]["message"]
    assert handle.get()["echo"] == 7


def test_a_request_is_found_again_by_its_id(client: fal_client.SyncClient) -> None:
    handle = client.submit(PROBE, {"echo": 8})
    assert client.result(PROBE, handle.request_id)["echo"] == 8
    assert isinstance(client.status(PROBE, handle.request_id), fal_client.Completed)


@pytest.mark.variants(1)
def test_subscribe(client: fal_client.SyncClient) -> None:
    ids: list[str] = []
    updates: list[fal_client.Status] = []
    output = client.subscribe(
        PROBE,
        {"echo": 9, "sleep_s": 0.2},
        with_logs=True,
        on_enqueue=ids.append,
        on_queue_update=updates.append,
    )
    assert output["echo"] == 9
    assert len(ids) == 1
    assert isinstance(updates[-1], fal_client.Completed)


async def test_subscribe_async(async_client: fal_client.AsyncClient) -> None:
    updates: list[fal_client.Status] = []
    output = await async_client.subscribe(
        PROBE, {"echo": 10}, with_logs=True, on_queue_update=updates.append, priority="low"
    )
    assert output["echo"] == 10
    assert isinstance(updates[-1], fal_client.Completed)


def test_many_at_once(client: fal_client.SyncClient) -> None:
    handles = [client.submit(PROBE, {"echo": number}) for number in range(30)]
    assert [handle.get()["echo"] for handle in handles] == list(range(30))


def test_cancelling_a_running_request(client: fal_client.SyncClient) -> None:
    handle = client.submit(PROBE, {"sleep_s": 60})
    while not isinstance(handle.status(), fal_client.InProgress):
        time.sleep(0.02)
    handle.cancel()
    began = time.monotonic()
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get()
    assert caught.value.status_code == 499
    assert caught.value.error_type == "client_cancelled"
    assert time.monotonic() - began < 50
    with pytest.raises(fal_client.FalClientHTTPError) as again:
        handle.cancel()
    assert again.value.status_code == 400


async def test_cancelling_async(async_client: fal_client.AsyncClient) -> None:
    handle = await async_client.submit(PROBE, {"sleep_s": 60})
    await handle.cancel()
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        await handle.get()
    assert caught.value.error_type == "client_cancelled"


def test_a_wrong_field_is_named(client: fal_client.SyncClient) -> None:
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.run(FLUX, {"prompt": "x", "num_inference_steps": 99})
    assert caught.value.status_code == 422
    (problem,) = caught.value.response.json()["detail"]
    assert problem["loc"] == ["body", "num_inference_steps"]
    assert problem["type"] == "less_than_equal"
    assert problem["ctx"] == {"le": 12}


def test_a_failed_request_raises_with_its_message(client: fal_client.SyncClient) -> None:
    orders = {"fail": "pipeline_failed", "message": "No paint."}
    with pytest.raises(fal_client.FalClientHTTPError, match=r"^No paint\.$") as caught:
        client.subscribe(PROBE, orders)
    assert caught.value.status_code == 500
    assert caught.value.error_type == "internal_server_error"


def test_an_endpoint_that_is_not_there(client: fal_client.SyncClient) -> None:
    with pytest.raises(fal_client.FalClientHTTPError, match="Did you mean test/probe") as caught:
        client.run("test/prob", {})
    assert caught.value.status_code == 404


def test_a_bad_key(darkroom_url: str) -> None:
    client = fal_client.SyncClient(key="nobody:" + "0" * 64)
    with pytest.raises(fal_client.FalClientHTTPError, match="not valid") as caught:
        client.run(PROBE, {})
    assert caught.value.status_code == 401
    client._client.close()


def test_a_start_timeout_is_honoured_and_not_retried(client: fal_client.SyncClient) -> None:
    output = client.run(PROBE, {"echo": 1}, start_timeout=30)
    assert output["echo"] == 1


async def test_a_client_timeout_cancels(async_client: fal_client.AsyncClient) -> None:
    with pytest.raises(fal_client.FalClientTimeoutError) as caught:
        await async_client.subscribe(PROBE, {"sleep_s": 60}, client_timeout=3)
    assert caught.value.request_id is not None
    with pytest.raises(fal_client.FalClientHTTPError) as ended:
        await async_client.result(PROBE, caught.value.request_id)
    assert ended.value.error_type == "client_cancelled"


def test_a_client_that_hangs_up_cancels_its_run(darkroom_url: str, darkroom_key: str) -> None:
    headers = {"Authorization": f"Key {darkroom_key}"}
    body, brief = {"sleep_s": 60}, httpx.Timeout(60, read=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{darkroom_url}/run/{PROBE}", json=body, headers=headers, timeout=brief)
    end = time.monotonic() + 60
    while True:
        url = f"{darkroom_url}/v1/requests?limit=1"
        page = httpx.get(url, headers=headers, timeout=60).json()
        if page["requests"][0]["state"] == "cancelled":
            return
        assert time.monotonic() < end, page
        time.sleep(0.05)


def test_files_are_read_without_a_key(client: fal_client.SyncClient) -> None:
    output = client.run(PROBE, {"artifacts": 1, "content": "abc"})
    assert httpx.get(output["images"][0]["url"]).content == b"abc"


def test_the_last_event_of_a_stream_is_its_output(client: fal_client.SyncClient) -> None:
    seen = list(client.stream(PROBE, {"echo": 12, "sleep_s": 0.5}))
    assert [event["status"] for event in seen[:-1]].count("IN_PROGRESS") >= 1
    assert seen[-1]["echo"] == 12


async def test_stream_async(async_client: fal_client.AsyncClient) -> None:
    seen = [event async for event in async_client.stream(PROBE, {"echo": 13, "sleep_s": 0.2})]
    assert seen[-1]["echo"] == 13


def test_a_stream_that_fails_in_the_middle_raises_and_has_said_why(
    client: fal_client.SyncClient,
) -> None:
    orders = {"sleep_s": 1.5, "fail": "pipeline_failed", "message": "No paint."}
    seen: list[dict] = []
    with pytest.raises(httpx.RemoteProtocolError):
        seen.extend(client.stream(PROBE, orders))  # events before the error are kept
    assert seen[-1]["detail"] == "No paint."


def test_leaving_a_stream_cancels_its_request(client: fal_client.SyncClient) -> None:
    stream = client.stream(PROBE, {"sleep_s": 60})
    request_id = next(stream)["request_id"]
    stream.close()
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.get_handle(PROBE, request_id).get()
    assert caught.value.error_type == "client_cancelled"
