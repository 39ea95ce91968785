"""fal's queue protocol: submit, status, result, cancel."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from serve_app.domain.request import Priority, State
from serve_app.ingress.fal import requests
from serve_app.ingress.services.replies import HOLD_S
from serve_app.queue.state.counters import UNKNOWN_RETRY_S
from tests.ingress.house import House, build_house

MOMENT = timedelta(seconds=5)  # between a response and the check of it


async def submit(client: httpx.AsyncClient, **orders: Any) -> dict[str, Any]:
    answer = await client.post("/queue/test/probe", json=orders)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def wait_until_completed(
    client: httpx.AsyncClient, submitted: dict[str, Any]
) -> dict[str, Any]:
    while True:
        answer = await client.get(submitted["status_url"], params={"logs": "1"})
        if answer.status_code == 200:
            return answer.json()
        assert answer.status_code == 202, answer.text


async def test_a_submit_says_where_to_ask(idle_client: httpx.AsyncClient) -> None:
    answer = await idle_client.post("/queue/test/deep/path/probe", json={})
    submitted = answer.json()
    request_id = submitted["request_id"]
    assert answer.headers["x-fal-request-id"] == request_id
    assert submitted["status"] == "IN_QUEUE"
    assert submitted["queue_position"] == 0
    assert submitted["response_url"] == f"http://testserver/queue/test/deep/requests/{request_id}"
    assert submitted["status_url"] == f"{submitted['response_url']}/status"
    assert submitted["cancel_url"] == f"{submitted['response_url']}/cancel"


async def test_the_urls_are_of_the_trusted_host_that_the_client_used() -> None:
    async with build_house(replica=False, trusted_hosts=("images.example",)) as house:
        transport = httpx.ASGITransport(house.app)
        headers = {"Authorization": f"Key {house.key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://images.example:8443", headers=headers
        ) as client:
            submitted = (await client.post("/queue/test/probe", json={})).json()
    assert submitted["status_url"].startswith(
        "http://images.example:8443/queue/test/probe/requests/"
    )


@pytest.mark.parametrize("host", ['evil"/><script>', "evil.example", "evil.example:8000", "a b"])
@pytest.mark.parametrize("path", ["/queue/test/probe", "/run/test/probe"])
async def test_a_host_that_is_none_of_ours_gets_into_no_url_and_nothing_is_stored(
    idle_client: httpx.AsyncClient, host: str, path: str
) -> None:
    answer = await idle_client.post(path, json={}, headers={"Host": host})
    assert answer.status_code == 400
    assert answer.headers["x-fal-error-type"] == "untrusted_host"
    assert "DARKROOM_PUBLIC_URL" in answer.json()["detail"]
    assert (await idle_client.get("/v1/requests")).json()["requests"] == []


async def test_forwarded_headers_change_no_url(idle_client: httpx.AsyncClient) -> None:
    forged = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil",
        "Forwarded": "host=evil.example;proto=https",
    }
    answer = await idle_client.post("/queue/test/probe", json={}, headers=forged)
    assert answer.json()["status_url"].startswith("http://testserver/queue/test/probe/")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:9"])
async def test_a_machines_own_names_need_no_setting(
    idle_client: httpx.AsyncClient, host: str
) -> None:
    answer = await idle_client.post("/queue/test/probe", json={}, headers={"Host": host})
    assert answer.json()["status_url"].startswith(f"http://{host}/queue/test/probe/")


async def test_a_public_url_goes_before_the_host() -> None:
    async with build_house(replica=False, public_url="https://art.example/darkroom/") as house:
        async with house.client() as client:
            submitted = await submit(client)
    assert submitted["status_url"].startswith(
        "https://art.example/darkroom/queue/test/probe/requests/"
    )


async def test_a_queued_request_shows_its_place_and_why_it_waits(
    idle_client: httpx.AsyncClient,
) -> None:
    await submit(idle_client)
    submitted = await submit(idle_client)
    answer = await idle_client.get(submitted["status_url"])
    status = answer.json()
    assert answer.status_code == 202
    assert status["status"] == "IN_QUEUE"
    assert status["queue_position"] == 1
    assert status["logs"] is None
    assert status["darkroom"] == {
        "reason": "no_replica",
        "detail": "",
        "stage": None,
        "share": None,
        "starts_at": None,
        "ends_at": None,
    }
    assert status["response_url"] == submitted["response_url"]


async def test_a_requests_expected_end_is_reported_once_another_has_ended(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.post("/test/probe", json={})).status_code == 200
    submitted = await submit(client, sleep_s=30)
    status = submitted
    while status["darkroom"].get("stage") is None:
        status = (await client.get(submitted["status_url"])).json()
    assert datetime.fromisoformat(status["darkroom"]["ends_at"]) > datetime.now(UTC) - MOMENT
    shown = (await client.get(f"/v1/requests/{submitted['request_id']}")).json()
    assert shown["ends_at"] is not None


async def test_a_running_request_shows_how_far_it_is(client: httpx.AsyncClient) -> None:
    submitted = await submit(client, sleep_s=30)
    status = submitted
    while status["darkroom"].get("stage") is None:  # each poll is held until something changes
        status = (await client.get(submitted["status_url"])).json()
    assert status["status"] == "IN_PROGRESS"
    assert "logs" in status
    assert (status["darkroom"]["stage"], status["darkroom"]["step"]) == ("denoising", 1)
    assert status["darkroom"]["steps"] == 4


async def test_a_completed_request_has_its_time_and_its_log(client: httpx.AsyncClient) -> None:
    submitted = await submit(client, echo=1)
    status = await wait_until_completed(client, submitted)
    assert status["status"] == "COMPLETED"
    assert status["metrics"]["inference_time"] == 0.25
    assert "error" not in status
    assert [line["source"] for line in status["logs"]] == ["USER"] * len(status["logs"])
    assert status["logs"][-1]["message"] == "Succeeded."
    assert {"message", "level", "source", "timestamp"} == set(status["logs"][0])


@pytest.mark.parametrize("suffix", ["", "/response", "/"])
async def test_the_result_is_the_bare_output(client: httpx.AsyncClient, suffix: str) -> None:
    submitted = await submit(client, echo="é")
    await wait_until_completed(client, submitted)
    answer = await client.get(submitted["response_url"] + suffix)
    assert answer.status_code == 200
    assert answer.json()["echo"] == "é"
    assert answer.headers["x-fal-request-id"] == submitted["request_id"]


async def test_the_whole_id_finds_a_request_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/queue/test/deep/path/probe", json={"echo": 5})
    request_id = answer.json()["request_id"]
    for base in ("/queue/test/deep/path/probe", "/queue/test/deep", "/test/deep"):
        assert (await client.get(f"{base}/requests/{request_id}/status")).status_code in (200, 202)


async def test_a_result_that_is_not_there_yet_is_answered_in_the_words_that_clients_compare(
    idle_client: httpx.AsyncClient,
) -> None:
    submitted = await submit(idle_client)
    answer = await idle_client.get(submitted["response_url"])
    assert answer.status_code == 400
    assert answer.json() == {"detail": "Request is still in progress"}


async def test_a_failure_is_completed_with_an_error_and_its_result_is_the_error(
    client: httpx.AsyncClient,
) -> None:
    submitted = await submit(client, fail="pipeline_failed", message="No.")
    status = await wait_until_completed(client, submitted)
    assert (status["status"], status["error"]) == ("COMPLETED", "No.")
    assert status["error_type"] == "internal_server_error"
    assert (await client.get(submitted["response_url"])).status_code == 500


async def test_a_queued_request_is_cancelled_at_once(idle_client: httpx.AsyncClient) -> None:
    submitted = await submit(idle_client)
    answer = await idle_client.put(submitted["cancel_url"])
    assert (answer.status_code, answer.json()) == (200, {"status": "OK"})
    result = await idle_client.get(submitted["response_url"])
    assert result.status_code == 499
    assert result.json()["error_type"] == "client_cancelled"
    again = await idle_client.put(submitted["cancel_url"])
    assert (again.status_code, again.json()["status"]) == (400, "ALREADY_COMPLETED")


async def test_a_running_request_is_asked_to_stop(house: House, client: httpx.AsyncClient) -> None:
    submitted = await submit(client, sleep_s=30)
    while (await house.queue.get("default", submitted["request_id"])).state is State.QUEUED:
        await house.queue.wait_for_change("default", submitted["request_id"], 1.0)
    answer = await client.put(submitted["cancel_url"])
    assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    status = await wait_until_completed(client, submitted)
    assert (status["status"], status["error_type"]) == ("COMPLETED", "client_cancelled")
    assert house.replica.stopped == [submitted["request_id"]]


@pytest.mark.parametrize("tail", ["", "/status", "/status/stream"])
async def test_unknown_foreign_and_impossible_ids_are_all_the_same(house: House, tail: str) -> None:
    async with house.client() as mine, house.client(house.other_key) as other:
        submitted = await submit(mine)
        theirs = await other.get(f"{submitted['response_url']}{tail}")
        unknown = await mine.get(
            f"/queue/test/probe/requests/{submitted['request_id'][:-4]}0000{tail}"
        )
        impossible = await mine.get(f"/queue/test/probe/requests/x{tail}")
        elsewhere = await mine.get(f"/queue/fal-ai/flux/requests/{submitted['request_id']}{tail}")
    for answer in (theirs, unknown, impossible, elsewhere):
        assert answer.status_code == 404
        assert answer.json()["status"] == "NOT_FOUND"
        assert answer.json()["detail"].startswith("There is no request ")


async def test_cancelling_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.put(
        "/queue/test/probe/requests/0190a0f0-0000-7000-8000-000000000000/cancel"
    )
    assert (answer.status_code, answer.json()["status"]) == (404, "NOT_FOUND")


async def test_a_status_stream_sends_each_change_and_ends(client: httpx.AsyncClient) -> None:
    submitted = await submit(client, sleep_s=0.1)
    answer = await client.get(f"{submitted['status_url']}/stream", params={"logs": "1"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(part.removeprefix("data: ")) for part in answer.text.split("\n\n") if part]
    assert events[-1]["status"] == "COMPLETED"
    assert events[0]["status"] in ("IN_QUEUE", "IN_PROGRESS")
    messages = [line["message"] for event in events for line in event["logs"]]
    assert messages[0] == "Queued."
    assert messages[-1] == "Succeeded."
    assert len(messages) == len(set(messages)), "logs in a stream are increments"


@pytest.mark.parametrize("tail", ["", "/stream"])
@pytest.mark.parametrize("orders", [{}, {"fail": "pipeline_failed", "message": "No."}])
async def test_a_status_has_the_result_at_the_end_on_request(
    client: httpx.AsyncClient, tail: str, orders: dict[str, str]
) -> None:
    submitted = await submit(client, **orders)
    await wait_until_completed(client, submitted)
    url = f"{submitted['status_url']}{tail}"
    plain = (await client.get(url)).text.removeprefix("data: ")
    assert "result" not in json.loads(plain)
    told = (await client.get(url, params={"result": "1"})).text.removeprefix("data: ")
    answer = await client.get(submitted["response_url"])
    assert json.loads(told)["result"] == {"status": answer.status_code, "body": answer.json()}


@pytest.mark.parametrize("path", ["/queue/test/probe", "/test/probe", "/test/probe/stream"])
async def test_a_call_without_a_body_is_one_without_fields(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.post(path)).status_code == 200
    refused = await client.post(path.replace("test/probe", "fal-ai/flux/schnell"))
    assert refused.json()["detail"][0]["loc"] == ["body", "prompt"]


async def test_ignored_fields_are_named_in_the_requests_log(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/queue/fal-ai/flux/schnell",
        json={"prompt": "x", "styel": 1, "acceleration": "high"},
        headers={"X-Fal-Runner-Hint": "a", "X-Fal-Tags": "b", "X-Fal-New": "1"},
    )
    status = await wait_until_completed(client, answer.json())
    warnings = [line["message"] for line in status["logs"] if line["level"] == "WARNING"]
    for word in (
        "styel",
        "acceleration",
        "x-fal-runner-hint",
        "x-fal-tags",
        "x-fal-new",
        "demo",
    ):
        assert any(word in warning for warning in warnings), word


@pytest.mark.parametrize(
    ("header", "priority"), [("low", Priority.LOW), ("normal", Priority.NORMAL)]
)
async def test_a_priority_is_honoured(idle: House, header: str, priority: Priority) -> None:
    async with idle.client(idle.weak_key) as client:
        await client.post("/queue/test/probe", json={}, headers={"X-Fal-Queue-Priority": header})
    assert (await idle.queue.page("default"))[0].priority is priority


@pytest.mark.parametrize(("header", "alone"), [("1", True), ("true", True), ("0", False)])
async def test_a_deterministic_request_is_stored_as_one_to_run_alone(
    idle: House, header: str, alone: bool
) -> None:
    async with idle.client(idle.weak_key) as client:
        await client.post(
            "/queue/test/probe", json={}, headers={"X-Darkroom-Deterministic": header}
        )
    assert (await idle.queue.page("default"))[0].alone is alone


async def test_high_priority_takes_a_stronger_key(idle: House) -> None:
    headers = {"X-Fal-Queue-Priority": "high"}
    async with idle.client(idle.weak_key) as client:
        refused = await client.post("/queue/test/probe", json={}, headers=headers)
    async with idle.client() as client:
        taken = await client.post("/queue/test/probe", json={}, headers=headers)
    assert (refused.status_code, taken.status_code) == (403, 200)
    assert "`priority`" in refused.text
    assert (await idle.queue.page("default"))[0].priority is Priority.HIGH


async def test_a_longest_queue_is_honoured(idle_client: httpx.AsyncClient) -> None:
    path = "/queue/test/probe?fal_max_queue_length=1"
    assert (await idle_client.post(path, json={})).status_code == 200
    refused = await idle_client.post(path, json={})
    assert refused.status_code == 429
    # No request has left the queue yet, so its throughput is not known.
    assert refused.headers["retry-after"] == str(round(UNKNOWN_RETRY_S))


async def test_the_first_poll_is_answered_at_once_and_the_next_when_something_changes(
    idle: House, idle_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "HOLD_S", 120.0)
    submitted = await submit(idle_client)
    await asyncio.wait_for(idle_client.get(submitted["status_url"]), 60.0)
    second = asyncio.create_task(idle_client.get(submitted["status_url"]))
    await asyncio.sleep(0.2)
    assert not second.done()
    await idle.queue.cancel("default", submitted["request_id"])
    answer = await asyncio.wait_for(second, 60.0)
    assert answer.json()["status"] == "COMPLETED"


async def test_a_held_poll_is_answered_when_its_hold_is_over(
    idle_client: httpx.AsyncClient,
) -> None:
    submitted = await submit(idle_client)
    await idle_client.get(submitted["status_url"])
    began = time.monotonic()
    assert (await idle_client.get(submitted["status_url"])).status_code == 202
    assert 0.8 * HOLD_S < time.monotonic() - began < HOLD_S + 30.0


async def test_a_new_line_in_the_log_is_news(
    idle: House, idle_client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "HOLD_S", 120.0)
    submitted = await submit(idle_client)
    await idle_client.get(submitted["status_url"], params={"logs": "true"})
    await idle.queue.log(submitted["request_id"], ("INFO", "Something happened."))
    polled = idle_client.get(submitted["status_url"], params={"logs": "true"})
    status = (await asyncio.wait_for(polled, 60.0)).json()
    assert status["logs"][-1]["message"] == "Something happened."


@pytest.mark.long
async def test_two_hundred_polling_clients_cost_a_few_hundred_calls_a_second(
    idle: House, idle_client: httpx.AsyncClient
) -> None:
    submitted = [await submit(idle_client) for _ in range(200)]
    calls = 0
    until = time.monotonic() + 2.0

    async def poll(url: str) -> None:
        nonlocal calls
        while time.monotonic() < until:
            await idle_client.get(url)
            calls += 1
            await asyncio.sleep(0.1)

    await asyncio.gather(*(poll(queued["status_url"]) for queued in submitted))
    assert calls < 200 * 8  # at the poll rate of fal's client it would be 200 × 20
