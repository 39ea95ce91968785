"""``POST /{endpoint}``: the output in the response."""

from __future__ import annotations

import asyncio
import base64

import httpx
import pytest

from serve_app.domain.request import State
from tests.ingress.house import House, build_house


async def final_state(house: House, request_id: str) -> State:
    return (await house.queue.wait("default", request_id, 5)).state


@pytest.mark.parametrize("path", ["/test/probe", "/run/test/probe", "/run/test/probe/"])
async def test_a_run_answers_with_the_bare_output(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"echo": {"a": [1, None]}})
    assert answer.status_code == 200
    assert answer.json()["echo"] == {"a": [1, None]}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("prefix", ["", "/run"])
async def test_a_session_whose_upgrade_a_proxy_removed_says_so(
    client: httpx.AsyncClient, prefix: str
) -> None:
    refusal = await client.get(f"{prefix}/test/probe/realtime")
    assert refusal.status_code == 404
    assert "removed its header Upgrade" in refusal.json()["detail"]
    unknown = await client.get(f"{prefix}/test/none/realtime")
    assert "There is nothing at this path" in unknown.json()["detail"]


async def test_a_runs_request_id_is_the_one_it_is_stored_under(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/test/probe", json={"echo": 7})
    request_id = answer.headers["x-fal-request-id"]
    again = await client.get(f"/queue/test/probe/requests/{request_id}")
    assert again.json() == answer.json()
    assert await final_state(house, request_id) is State.SUCCEEDED


async def test_a_file_is_a_url_that_can_be_read_without_a_key(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/test/probe", json={"artifacts": 2, "content": "abc"})
    first, second = answer.json()["images"]
    assert first["url"].startswith("http://testserver/files/r/")
    assert first["url"] != second["url"]
    assert first["content_type"] == "application/octet-stream"
    assert (first["file_size"], first["width"], first["height"]) == (3, 8, 8)
    assert first["url"].endswith(first["file_name"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app)) as stranger:
        assert (await stranger.get(first["url"])).content == b"abc"


async def test_an_image_has_the_type_that_was_asked_for(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/fal-ai/flux/schnell", json={"prompt": "x", "output_format": "webp", "num_images": 3}
    )
    images = answer.json()["images"]
    assert [image["content_type"] for image in images] == ["image/webp"] * 3


async def test_sync_mode_returns_the_image_itself(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/fal-ai/flux/schnell", json={"prompt": "x", "sync_mode": True, "output_format": "png"}
    )
    scheme, _, data = answer.json()["images"][0]["url"].partition(";base64,")
    assert scheme == "data:image/png"
    assert base64.b64decode(data) == b"image"


@pytest.mark.parametrize(
    ("code", "retryable", "status", "type_"),
    [
        ("pipeline_failed", False, 500, "internal_server_error"),
        ("weights_unavailable", False, 500, "internal_server_error"),
        ("something_of_a_later_version", False, 500, "internal_error"),
    ],
)
async def test_a_failure_is_reported_with_its_kind(
    client: httpx.AsyncClient, code: str, retryable: bool, status: int, type_: str
) -> None:
    answer = await client.post("/test/probe", json={"fail": code, "message": "Out of paint."})
    assert answer.status_code == status
    assert answer.headers["x-fal-error-type"] == type_
    assert answer.headers["x-fal-retryable"] == "false"
    assert answer.json()["message"] == "Out of paint."
    assert answer.json()["detail"] == "Out of paint."


@pytest.mark.parametrize(
    ("field", "loc"),
    [("image_size.width", ["image_size", "width"]), ("loras.0.path", ["loras", 0, "path"])],
)
async def test_a_field_that_only_the_pipeline_could_refuse_is_named(
    client: httpx.AsyncClient, field: str, loc: list[str | int]
) -> None:
    answer = await client.post("/test/probe", json={"fail": "pipeline_failed", "field": field})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", *loc]


async def test_a_file_at_fault_is_reported_with_fals_type_and_link(
    client: httpx.AsyncClient,
) -> None:
    orders = {
        "fail": "invalid_input",
        "field": "image_url",
        "message": "image_url: the image is 4×4 pixels",
        "type": "image_too_small",
        "context": {"min_width": 8},
    }
    answer = await client.post("/test/probe", json=orders)
    assert answer.status_code == 422
    assert answer.headers["x-fal-retryable"] == "false"
    assert answer.headers["x-fal-error-type"] == "image_too_small"
    assert answer.json() == {
        "message": "image_url: the image is 4×4 pixels",
        "code": "invalid_input",
        "detail": [
            {
                "loc": ["body", "image_url"],
                "msg": "the image is 4×4 pixels",
                "type": "image_too_small",
                "url": "https://docs.fal.ai/errors/#image_too_small",
                "ctx": {"min_width": 8},
            }
        ],
    }


async def test_a_request_that_may_not_wait_expires(idle_client: httpx.AsyncClient) -> None:
    answer = await idle_client.post(
        "/test/probe", json={}, headers={"X-Fal-Request-Timeout": "0.1"}
    )
    assert answer.status_code == 504
    assert answer.headers["x-fal-request-timeout-type"] == "user"
    assert answer.json()["error_type"] == "request_timeout"


async def test_a_request_that_is_not_done_by_its_deadline_expires(
    idle_client: httpx.AsyncClient,
) -> None:
    answer = await idle_client.post("/test/probe", json={}, headers={"X-Darkroom-Deadline": "0.1"})
    assert answer.status_code == 504
    assert "X-Darkroom-Deadline" in answer.text


async def test_a_client_that_goes_away_cancels_its_request() -> None:
    async with build_house(replica=False) as house:
        sent: list[dict] = []
        body = [{"type": "http.request", "body": b"{}", "more_body": False}]
        hung_up = asyncio.Event()

        async def receive() -> dict:
            if body:
                return body.pop()
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)

        call = asyncio.create_task(house.app(scope(house), receive, send))
        request_id = await wait_for_request(house)
        hung_up.set()
        await call
        assert await final_state(house, request_id) is State.CANCELLED


async def test_a_call_that_the_server_gives_up_cancels_its_request() -> None:
    async with build_house(replica=False) as house:
        body = [{"type": "http.request", "body": b"{}", "more_body": False}]

        async def receive() -> dict:
            if body:
                return body.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict) -> None:
            raise AssertionError(message)

        call = asyncio.create_task(house.app(scope(house), receive, send))
        request_id = await wait_for_request(house)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await final_state(house, request_id) is State.CANCELLED


async def wait_for_request(house: House) -> str:
    while True:
        page = await house.queue.page("default")
        if page:
            return page[0].id
        await asyncio.sleep(0.01)


def scope(house: House) -> dict:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/test/probe",
        "raw_path": b"/test/probe",
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"authorization", f"Key {house.key}".encode()),
            (b"host", b"testserver"),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
