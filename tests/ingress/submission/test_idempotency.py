"""`Idempotency-Key`: a repeated submit runs once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.domain.errors import StorageFull
from serve_app.domain.request import State
from serve_app.ingress.submission.drafts import UNKNOWN
from tests.ingress.fal.test_run import final_state, scope, wait_for_request
from tests.ingress.house import House, build_house
from tests.ingress.openai.test_images import GENERATIONS

KEY = {"Idempotency-Key": "order 66, image 1"}
MCP = {"accept": "application/json, text/event-stream"}
SUBMIT, RUN = "/queue/test/probe", "/test/probe"


async def test_a_repeated_submit_gets_the_same_request_and_says_so(
    client: httpx.AsyncClient,
) -> None:
    first = await client.post(SUBMIT, json={"echo": 1, "sleep_s": 0.1}, headers=KEY)
    again = await client.post(SUBMIT, json={"sleep_s": 0.1, "echo": 1}, headers=KEY)
    await client.post(RUN, json={"sleep_s": 0.1, "echo": 1}, headers=KEY)
    ended = await client.post(SUBMIT, json={"echo": 1, "sleep_s": 0.1}, headers=KEY)
    assert "x-darkroom-replayed" not in first.headers
    for answer in (again, ended):
        assert answer.status_code == 200
        assert answer.headers["x-darkroom-replayed"] == "1"
        assert answer.headers["x-fal-request-id"] == first.json()["request_id"]
        for field in ("request_id", "response_url", "status_url", "cancel_url"):
            assert answer.json()[field] == first.json()[field]


async def test_a_repeated_run_waits_for_the_first_and_answers_alike(
    house: House, client: httpx.AsyncClient
) -> None:
    orders = {"echo": 7, "sleep_s": 0.2, "artifacts": 1}
    runs = [client.post(RUN, json=orders, headers=KEY) for _ in range(5)]
    answers = [*await asyncio.gather(*runs), await client.post(RUN, json=orders, headers=KEY)]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.text for answer in answers}) == 1
    assert len({answer.headers["x-fal-request-id"] for answer in answers}) == 1
    assert sorted(answer.headers.get("x-darkroom-replayed", "0") for answer in answers) == [
        "0", *["1"] * 5
    ]  # fmt: skip
    assert len(house.replica.ran) == 1


async def test_a_repeated_run_of_a_failed_one_gets_the_same_failure(
    house: House, client: httpx.AsyncClient
) -> None:
    orders = {"fail": "pipeline_failed", "message": "No paint."}
    answers = [await client.post(RUN, json=orders, headers=KEY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[0].json() == answers[1].json()
    assert len(house.replica.ran) == 1


async def test_the_same_key_with_another_body_is_refused(idle_client: httpx.AsyncClient) -> None:
    await idle_client.post(SUBMIT, json={"echo": 1}, headers=KEY)
    answer = await idle_client.post(SUBMIT, json={"echo": 2}, headers=KEY)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    assert "new key" in answer.json()["message"]
    assert len((await idle_client.get("/v1/requests")).json()["requests"]) == 1


async def test_the_same_key_at_another_endpoint_or_of_another_tenant_is_another_request(
    idle: House,
) -> None:
    async with idle.client() as mine, idle.client(idle.other_key) as theirs:
        answers = [
            await mine.post(SUBMIT, json={}, headers=KEY),
            await mine.post("/queue/test/deep/path/probe", json={}, headers=KEY),
            await theirs.post(SUBMIT, json={}, headers=KEY),
        ]
    assert len({answer.json()["request_id"] for answer in answers}) == 3


async def test_a_key_that_is_sent_twice_is_refused(idle_client: httpx.AsyncClient) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await idle_client.post(SUBMIT, json={}, headers=headers)).status_code == 422


async def test_what_was_accepted_is_found_when_nothing_new_is(idle: House) -> None:
    full: list[bool] = []

    async def room() -> None:
        if full:
            raise StorageFull("The disk is full.")

    async with build_house(replica=False, room=room) as house, house.client() as client:
        first = await client.post(SUBMIT, json={}, headers=KEY)
        path = f"{SUBMIT}?fal_max_queue_length=1"
        assert (await client.post(path, json={})).status_code == 429
        full.append(True)
        again = await client.post(path, json={}, headers=KEY)
        assert again.json()["request_id"] == first.json()["request_id"]
        refused = await client.post(SUBMIT, json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (507, "30")


FLUX = "fal-ai/flux/schnell"


@pytest.mark.parametrize(
    ("path", "wrapped"),
    [
        (f"/queue/{FLUX}", lambda fields: fields),
        (f"/{FLUX}", lambda fields: fields),
        (f"/run/{FLUX}/stream", lambda fields: fields),
        (GENERATIONS, lambda fields: {"model": FLUX, "prompt": "a dog", **fields}),
        ("/replicate/v1/predictions", lambda fields: {"version": FLUX, "input": fields}),
    ],
)
async def test_a_repeat_is_answered_when_its_draft_is_gone(
    house: House, client: httpx.AsyncClient, path: str, wrapped: Callable[[Any], Any]
) -> None:
    response = await client.post(f"/{FLUX}", json={"prompt": "a dog", "draft": {"count": 1}})
    draft = response.json()["drafts"][0]["id"]
    body = wrapped({"from_draft": draft})
    first = await client.post(path, json=body, headers=KEY)
    assert first.is_success, first.text
    ran = [*house.replica.ran]
    assert (await client.delete(f"/v1/drafts/{draft}")).status_code == 204
    again = await client.post(path, json=body, headers=KEY)
    assert again.is_success, again.text
    assert again.headers["x-darkroom-replayed"] == "1"
    assert again.headers["x-fal-request-id"] == first.headers["x-fal-request-id"]
    other = await client.post(path, json=body, headers={"Idempotency-Key": "another"})
    assert other.status_code in {400, 422}
    assert len((await client.get("/v1/requests")).json()["requests"]) == 2
    assert set(house.replica.ran) - {first.headers["x-fal-request-id"]} <= set(ran)


async def test_a_repeat_of_a_tool_of_mcp_is_answered_when_its_draft_is_gone(
    house: House, client: httpx.AsyncClient
) -> None:
    response = await client.post(f"/{FLUX}", json={"prompt": "a dog", "draft": {"count": 1}})
    draft = response.json()["drafts"][0]["id"]
    tool = {"name": "generate", "arguments": {"model": FLUX, "input": {"from_draft": draft}}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
    answers: list[httpx.Response] = []
    for _ in range(2):
        answers.append(await client.post("/mcp", json=call, headers=MCP | KEY))
        await client.delete(f"/v1/drafts/{draft}")
    assert '"isError":true' not in answers[1].text.replace(" ", "")
    assert len((await client.get("/v1/requests")).json()["requests"]) == 2
    refused = await client.post("/mcp", json=call, headers=MCP)
    assert UNKNOWN in refused.text


@pytest.mark.parametrize("path", [SUBMIT, RUN])
async def test_a_repeat_is_answered_when_its_endpoint_is_gone(
    house: House, client: httpx.AsyncClient, path: str
) -> None:
    first = await client.post(path, json={"echo": 1}, headers=KEY)
    assert first.status_code == 200
    await final_state(house, first.headers["x-fal-request-id"])
    house.services.catalog.become(Catalog({}))
    again = await client.post(path, json={"echo": 1}, headers=KEY)
    assert again.status_code == 200, again.text
    assert again.headers["x-fal-request-id"] == first.headers["x-fal-request-id"]
    for body, key in (({"echo": 2}, KEY), ({"echo": 1}, {"Idempotency-Key": "another"}), ({}, {})):
        assert (await client.post(path, json=body, headers=key)).status_code == 404


async def test_an_input_that_was_never_valid_repeats_nothing(
    idle_client: httpx.AsyncClient,
) -> None:
    path = f"/queue/{FLUX}"
    await idle_client.post(path, json={"prompt": "a dog"}, headers=KEY)
    for _ in range(2):
        answer = await idle_client.post(path, json={"prompt": 5}, headers=KEY)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "prompt"]
    assert len((await idle_client.get("/v1/requests")).json()["requests"]) == 1


async def test_a_repeat_of_a_deleted_request_that_would_not_validate_says_that_it_was_deleted(
    house: House, client: httpx.AsyncClient
) -> None:
    first = await client.post(RUN, json={"echo": 1}, headers=KEY)
    deleted = await client.delete(f"/v1/requests/{first.headers['x-fal-request-id']}")
    assert deleted.is_success
    house.services.catalog.become(Catalog({}))
    assert (await client.post(RUN, json={"echo": 1}, headers=KEY)).status_code == 410


async def test_a_key_of_other_endpoints_finds_no_earlier_request(house: House) -> None:
    async with house.client() as client:
        assert (await client.post(SUBMIT, json={}, headers=KEY)).status_code == 200
        response = await client.post("/v1/keys", json={"scopes": ["api"], "endpoints": [FLUX]})
        assert response.status_code == 201, response.text
    house.services.catalog.become(Catalog({}))
    async with house.client(response.json()["key"]) as limited:
        assert (await limited.post(SUBMIT, json={}, headers=KEY)).status_code == 403


@pytest.mark.parametrize("how", ["hangs up", "is given up by the server"])
async def test_a_run_with_a_key_goes_on_without_its_client_and_is_found_by_the_key(
    house: House, how: str
) -> None:
    orders = b'{"echo": 3, "sleep_s": 0.2}'
    body = [{"type": "http.request", "body": orders, "more_body": False}]
    hung_up = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        """Never called."""

    called = scope(house)
    called["headers"].append((b"idempotency-key", KEY["Idempotency-Key"].encode()))
    call = asyncio.create_task(house.app(called, receive, send))
    request_id = await wait_for_request(house)
    if how == "hangs up":
        hung_up.set()
        await call
    else:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    async with house.client() as client:
        again = await client.post(RUN, json={"echo": 3, "sleep_s": 0.2}, headers=KEY)
    assert (again.status_code, again.json()["echo"]) == (200, 3)
    assert again.headers["x-fal-request-id"] == request_id
    assert await final_state(house, request_id) is State.SUCCEEDED
    assert house.replica.ran == [request_id]
