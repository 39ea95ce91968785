"""`Idempotency-Key`: a repeated submit runs once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serve_app.domain.errors import StorageFull
from serve_app.domain.request import State
from tests.ingress.fal.test_run import finished, scope, submitted
from tests.ingress.house import House, built

KEY = {"Idempotency-Key": "order 66, image 1"}
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

    async with built(replica=False, room=room) as house, house.client() as client:
        first = await client.post(SUBMIT, json={}, headers=KEY)
        path = f"{SUBMIT}?fal_max_queue_length=1"
        assert (await client.post(path, json={})).status_code == 429
        full.append(True)
        again = await client.post(path, json={}, headers=KEY)
        assert again.json()["request_id"] == first.json()["request_id"]
        refused = await client.post(SUBMIT, json={})
        assert (refused.status_code, refused.headers["retry-after"]) == (507, "30")


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
    request_id = await submitted(house)
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
    assert await finished(house, request_id) is State.SUCCEEDED
    assert house.replica.ran == [request_id]
