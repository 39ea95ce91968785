"""Webhooks from the submit to the receiver, over fakes of everything but HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Standard
from standardwebhooks.webhooks import WebhookVerificationError

from serve_app.domain.lease import Ask, Finish
from serve_app.domain.outcome import Outcome
from tests.deployments.waiting import until
from tests.ingress.house import ORIGIN, House, build_house
from tests.webhooks.fals_verification import verify_webhook
from tests.webhooks.receiver import Receiver, Reply, always, each

WAITS = (0.0, 0.0, 0.0)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def delivering() -> AsyncIterator[House]:
    async with build_house(
        deliver=True, allow_private_webhooks=True, webhook_waits_s=WAITS
    ) as house:
        yield house


async def submit_request(
    client: httpx.AsyncClient, url: str, body: Any = None, **headers: str
) -> str:
    answer = await client.post(
        "/queue/test/probe",
        params={"fal_webhook": url},
        json=body or {},
        headers=headers,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


async def wait_until_settled(
    client: httpx.AsyncClient, request_id: str, *states: str
) -> dict[str, Any]:
    async with asyncio.timeout(120):
        while True:
            delivery = (await client.get(f"/v1/requests/{request_id}/webhook")).json()
            if delivery.get("state") in (states or ("delivered", "dead")):
                return delivery
            await asyncio.sleep(0.02)


async def test_an_outcome_is_sent_as_fal_sends_it(delivering: House, receiver: Receiver) -> None:
    async with delivering.client() as client:
        request_id = await submit_request(client, receiver.url("/hook?a=b"), {"artifacts": 1})
        delivery = await wait_until_settled(client, request_id)
        result = (await client.get(f"/queue/test/probe/requests/{request_id}")).json()
    (received,) = receiver.received
    assert received.target == "/hook?a=b"
    assert json.loads(received.body) == {
        "request_id": request_id,
        "gateway_request_id": request_id,
        "status": "OK",
        "payload": result,
    }
    assert result["images"][0]["url"].startswith(ORIGIN)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (delivery["state"], delivery["status"], delivery["tries"]) == ("delivered", 200, 1)
    assert [(attempt["status"], attempt["error"]) for attempt in delivery["log"]] == [(200, None)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"fail": "pipeline_failed"}, 500),
        ({"fail": "invalid_input", "field": "prompt"}, 422),
    ],
)
async def test_a_failure_is_sent_as_fal_sends_it(
    delivering: House, receiver: Receiver, body: Any, status: int
) -> None:
    async with delivering.client() as client:
        request_id = await submit_request(client, receiver.url(), body)
        await wait_until_settled(client, request_id)
        result = await client.get(f"/queue/test/probe/requests/{request_id}")
    assert result.status_code == status
    assert json.loads(receiver.received[0].body) == {
        "request_id": request_id,
        "gateway_request_id": request_id,
        "status": "ERROR",
        "error": f"Invalid status code: {status}",
        "payload": result.json(),
    }


async def test_a_cancelled_request_is_reported(receiver: Receiver) -> None:
    async with (
        build_house(deliver=True, allow_private_webhooks=True, replica=False) as house,
        house.client() as client,
    ):
        request_id = await submit_request(client, receiver.url())
        assert (await wait_until_settled(client, request_id, "awaited"))["delivery_id"] is None
        await client.put(f"/queue/test/probe/requests/{request_id}/cancel")
        await wait_until_settled(client, request_id)
    assert json.loads(receiver.received[0].body)["error"] == "Invalid status code: 499"


async def test_an_output_that_is_no_json_is_reported_without_it(receiver: Receiver) -> None:
    async with (
        build_house(deliver=True, allow_private_webhooks=True, replica=False) as house,
        house.client() as client,
    ):
        request_id = await submit_request(client, receiver.url())
        work = await house.queue.ask(Ask("r1", "actor", "studio", 1))
        outcome = Outcome(output={"loss": float("nan")})
        await house.queue.finish(Finish(work.leases[0].key, "r1", outcome))
        await wait_until_settled(client, request_id)
    delivery = json.loads(receiver.received[0].body)
    assert (delivery["status"], delivery["payload"]) == ("OK", None)
    assert "JSON" in delivery["payload_error"]


async def test_half_of_a_surrogate_pair_in_an_output_is_sent_as_a_question_mark(
    receiver: Receiver,
) -> None:
    async with (
        build_house(deliver=True, allow_private_webhooks=True, replica=False) as house,
        house.client() as client,
    ):
        request_id = await submit_request(client, receiver.url())
        work = await house.queue.ask(Ask("r1", "actor", "studio", 1))
        outcome = Outcome(output={"text": "half of a fox: \ud83e"})
        await house.queue.finish(Finish(work.leases[0].key, "r1", outcome))
        await wait_until_settled(client, request_id)
        result = await client.get(f"/queue/test/probe/requests/{request_id}")
        listed = await client.get(
            "/v1/models/requests/by-endpoint?endpoint_id=test/probe&expand=payloads"
        )
    assert result.json() == {"text": "half of a fox: ?"}
    assert json.loads(receiver.received[0].body)["payload"] == result.json()
    assert listed.json()["items"][0]["json_output"] == result.json()


@pytest.mark.parametrize(("size", "begins"), [(2000, "data:"), (900_000, "http:")])
async def test_files_come_within_the_output_unless_they_are_too_large(
    delivering: House, receiver: Receiver, size: int, begins: str
) -> None:
    async with delivering.client() as client:
        body = {"sync_mode": True, "artifacts": 2, "content": "x" * size}
        request_id = await submit_request(client, receiver.url(), body)
        await wait_until_settled(client, request_id)
    files = json.loads(receiver.received[0].body)["payload"]["images"]
    assert [file["url"].startswith(begins) for file in files] == [True, True]


async def test_an_output_that_is_too_large_is_reported_without_it(
    receiver: Receiver,
) -> None:
    async with (
        build_house(deliver=True, allow_private_webhooks=True, max_body_bytes=4 << 20) as house,
        house.client() as client,
    ):
        request_id = await submit_request(client, receiver.url(), {"echo": "x" * (2 << 20)})
        await wait_until_settled(client, request_id)
    delivery = json.loads(receiver.received[0].body)
    assert (delivery["status"], delivery["payload"]) == ("OK", None)
    assert "2097152 bytes" in delivery["payload_error"]


async def test_fals_verification_and_standard_webhooks_accept_it(
    delivering: House, receiver: Receiver
) -> None:
    async with delivering.client() as client:
        await wait_until_settled(client, await submit_request(client, receiver.url()))
        (secret,) = (await client.get("/v1/webhooks/secret")).json()["secrets"]
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(delivering.app), base_url=ORIGIN
    ) as stranger:
        jwks = (await stranger.get("/.well-known/jwks.json")).json()
        assert (await stranger.get("/rest/.well-known/jwks.json")).json() == jwks
    (received,) = receiver.received
    headers, body = received.headers, received.body
    assert verify_webhook(headers, body, jwks)
    assert not verify_webhook(headers, body + b" ", jwks)
    assert not verify_webhook({**headers, "x-fal-webhook-user-id": "other"}, body, jwks)
    Standard(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Standard(secret).verify(body + b" ", headers)
    async with delivering.client(delivering.other_key) as other:
        (foreign,) = (await other.get("/v1/webhooks/secret")).json()["secrets"]
    with pytest.raises(WebhookVerificationError):
        Standard(foreign).verify(body, headers)


async def test_each_try_has_the_same_bytes_and_the_same_id(
    delivering: House, receiver: Receiver
) -> None:
    receiver.script = each(Reply(500), Reply(503), Reply(204))
    async with delivering.client() as client:
        delivery = await wait_until_settled(client, await submit_request(client, receiver.url()))
    assert len({received.body for received in receiver.received}) == 1
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
    assert [attempt["status"] for attempt in delivery["log"]] == [500, 503, 204]
    assert (delivery["state"], delivery["tries"], delivery["error"]) == ("delivered", 3, None)


async def test_after_the_last_wait_it_is_dead_and_is_sent_again_by_hand(
    delivering: House, receiver: Receiver
) -> None:
    receiver.script = always(Reply(400))
    async with delivering.client() as client:
        request_id = await submit_request(client, receiver.url())
        delivery = await wait_until_settled(client, request_id)
        assert (delivery["state"], delivery["tries"]) == ("dead", 1 + len(WAITS))
        assert delivery["error"] == "It answered 400."
        listed = (await client.get("/v1/webhooks", params={"state": "dead"})).json()["webhooks"]
        assert [webhook["request_id"] for webhook in listed] == [request_id]
        receiver.script = always(Reply())
        again = await client.put(f"/v1/requests/{request_id}/webhook/redeliver")
        assert again.json()["state"] == "pending"
        assert (await wait_until_settled(client, request_id))["state"] == "delivered"
        acts = (await client.get("/v1/audit")).json()["acts"]
    assert [(act["action"], act["subject"]) for act in acts] == [("webhook.redeliver", request_id)]
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1


@pytest.mark.parametrize("status", [301, 410])
async def test_a_redirect_and_a_gone_are_the_end(
    delivering: House, receiver: Receiver, status: int
) -> None:
    receiver.script = always(Reply(status, (("location", receiver.url("/other")),)))
    async with delivering.client() as client:
        delivery = await wait_until_settled(client, await submit_request(client, receiver.url()))
    assert (delivery["state"], delivery["tries"], delivery["status"]) == ("dead", 1, status)
    assert [received.target for received in receiver.received] == ["/hook"]


async def test_a_metric_counts_each_try(delivering: House, receiver: Receiver) -> None:
    receiver.script = each(Reply(500), Reply())
    async with delivering.client() as client:
        await wait_until_settled(client, await submit_request(client, receiver.url()))
    registry = delivering.services.metrics.registry

    def count(result: str) -> float | None:
        return registry.get_sample_value("darkroom_webhooks_total", {"result": result})

    assert (count("failed"), count("delivered")) == (1, 1)


BAD_URLS = {
    "": "http",
    "ftp://receiver.example/x": "http",
    "receiver.example": "http",
    "http://": "host",
    "http:///hook": "host",
    "https://receiver.example/" + "x" * 2048: "2048",
    "http://127.0.0.1/hook": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
    "http://2130706433/hook": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
    "http://[::1]:80/hook": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
    "http://[::ffff:10.0.0.1]/hook": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
    "http://[64:ff9b::7f00:1]/hook": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
    "http://169.254.169.254/latest": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
    "http://user:secret@10.1.2.3/": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
    "https://hooks.example:99999/": "a port from 1 to 65535",
    "https://hooks.example:-1/": "a port from 1 to 65535",
    "https://hooks.example:0/": "a port from 1 to 65535",
    "http://localhost/hook": "DARKROOM_ALLOW_PRIVATE_WEBHOOKS",
}


@pytest.mark.parametrize("url", BAD_URLS)
async def test_a_url_that_may_not_be_called_is_refused_by_name(idle: House, url: str) -> None:
    async with idle.client() as client:
        answer = await client.post("/queue/test/probe", params={"fal_webhook": url}, json={})
        assert (await client.get("/v1/requests")).json()["requests"] == []
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "fal_webhook"]
    assert BAD_URLS[url] in answer.json()["message"]
    assert "secret" not in answer.text


async def test_a_name_of_a_private_address_is_refused_and_an_unknown_one_is_not() -> None:
    async def names(host: str, port: int) -> Sequence[str]:
        if host == "inside.example":
            return ["93.184.215.14", "192.168.0.1"]
        raise OSError("unknown")

    async with build_house(replica=False, names=names) as house, house.client() as client:
        answer = await client.post(
            "/queue/test/probe", params={"fal_webhook": "https://inside.example/"}, json={}
        )
        assert answer.status_code == 422
        assert "inside.example" in answer.json()["message"]
        await submit_request(client, "https://not-yet-there.example/")


async def test_a_name_that_resolves_anew_does_not_get_past_the_check(receiver: Receiver) -> None:
    answers = iter([["93.184.215.14"]])

    async def names(host: str, port: int) -> Sequence[str]:
        return next(answers, ["127.0.0.1"])

    async with (
        build_house(deliver=True, names=names) as house,
        house.client() as client,
    ):
        request_id = await submit_request(client, f"http://rebound.example:{receiver.port}/")
        delivery = await wait_until_settled(client, request_id)
    assert (delivery["state"], delivery["tries"]) == ("dead", 1)
    assert "private address" in delivery["error"]
    assert receiver.connections == 0


async def test_the_same_key_with_another_webhook_is_another_request(idle: House) -> None:
    async with idle.client() as client:
        keyed = {"idempotency-key": "once"}
        url = "https://93.184.215.14/a"
        first = await submit_request(client, url, **keyed)
        assert await submit_request(client, url, **keyed) == first
        other = await client.post(
            "/queue/test/probe",
            params={"fal_webhook": "https://93.184.215.14/b"},
            json={},
            headers=keyed,
        )
    assert other.status_code == 422
    assert other.json()["detail"][0]["loc"] == ["header", "Idempotency-Key"]


async def test_a_run_calls_its_webhook_as_well(delivering: House, receiver: Receiver) -> None:
    async with delivering.client() as client:
        answer = await client.post("/test/probe", params={"fal_webhook": receiver.url()}, json={})
    (received,) = await receiver.until(1)
    assert json.loads(received.body)["payload"] == answer.json()


async def test_webhooks_of_others_are_not_there(delivering: House, receiver: Receiver) -> None:
    async with delivering.client() as client:
        request_id = await submit_request(client, receiver.url())
        await wait_until_settled(client, request_id)
        plain = (await client.post("/queue/test/probe", json={})).json()["request_id"]
        assert (await client.get(f"/v1/requests/{plain}/webhook")).status_code == 404
    async with delivering.client(delivering.other_key) as other:
        path = f"/v1/requests/{request_id}/webhook"
        assert (await other.get(path)).status_code == 404
        assert (await other.put(f"{path}/redeliver")).status_code == 404
        assert (await other.get("/v1/webhooks")).json()["webhooks"] == []
        admin = {"tenant": "default"}
        assert (await other.get(path, params=admin)).json()["state"] == "delivered"
        assert (await other.put(f"{path}/redeliver", params=admin)).status_code == 200
    async with delivering.client(delivering.weak_key) as weak:
        assert (await weak.get(path)).status_code == 200
        foreign = await weak.get("/v1/webhooks", params={"tenant": "other"})
        assert foreign.status_code == 403
        assert (await weak.put("/v1/webhooks/rotate")).status_code == 403


async def test_the_list_comes_in_pages(delivering: House, receiver: Receiver) -> None:
    async with delivering.client() as client:
        ids = [await submit_request(client, receiver.url()) for _ in range(3)]
        for request_id in ids:
            await wait_until_settled(client, request_id)
        page = (await client.get("/v1/webhooks", params={"limit": 2})).json()
        assert [webhook["request_id"] for webhook in page["webhooks"]] == ids[:0:-1]
        rest = (await client.get("/v1/webhooks", params={"before": page["next_before"]})).json()
        assert [webhook["request_id"] for webhook in rest["webhooks"]] == ids[:1]
        assert rest["next_before"] is None
        for bad in ({"state": "awaited"}, {"before": "x"}, {"limit": "0"}):
            assert (await client.get("/v1/webhooks", params=bad)).status_code == 422


async def test_a_test_is_sent_at_once_and_reports_what_the_receiver_did(
    delivering: House, receiver: Receiver
) -> None:
    receiver.script = each(Reply(), Reply(404))
    async with delivering.client() as client:
        wish = {"url": receiver.url()}
        delivery = (await client.post("/v1/webhooks/test", json=wish)).json()
        assert (delivery["delivered"], delivery["status"], delivery["error"]) == (True, 200, None)
        delivery = (await client.post("/v1/webhooks/test", json=wish)).json()
        assert (delivery["delivered"], delivery["error"]) == (False, "It answered 404.")
        jwks = (await client.get("/.well-known/jwks.json")).json()
        bad = await client.post("/v1/webhooks/test", json={"url": "ftp://x"})
        assert bad.json()["detail"][0]["loc"] == ["body", "url"]
        assert (await client.post("/v1/webhooks/test", json={})).status_code == 422
    assert verify_webhook(receiver.received[0].headers, receiver.received[0].body, jwks)
    assert json.loads(receiver.received[0].body)["payload"] == {"darkroom_test": True}


async def test_a_tenant_sends_two_tests_at_once_to_receivers_that_do_not_answer(
    delivering: House, receiver: Receiver
) -> None:
    receiver.script = always(Reply(hangs=True))
    async with delivering.client() as client, delivering.client(delivering.other_key) as other:
        wish = {"url": receiver.url()}
        waiting = [
            asyncio.create_task(client.post("/v1/webhooks/test", json=wish)) for _ in range(2)
        ]
        await until(lambda: len(receiver.received) == 2)
        third = await client.post("/v1/webhooks/test", json=wish)
        assert (third.status_code, third.headers["retry-after"]) == (429, "1")
        assert "2 tests of webhooks run already" in third.text
        waiting.append(asyncio.create_task(other.post("/v1/webhooks/test", json=wish)))
        await until(lambda: len(receiver.received) == 3)
        for each_test in waiting:
            each_test.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_new_key_is_announced_a_day_before_it_signs(
    delivering: House, receiver: Receiver
) -> None:
    async with delivering.client() as client:
        old = (await client.get("/.well-known/jwks.json")).json()
        keys = (await client.put("/v1/webhooks/rotate")).json()["keys"]
        assert [key["signs"] for key in keys] == [True, False]
        assert (await client.put("/v1/webhooks/rotate")).json()["keys"] == keys
        both = (await client.get("/.well-known/jwks.json")).json()
        assert both["keys"][0] == old["keys"][0]
        assert [key["kid"] for key in both["keys"]] == [key["kid"] for key in keys]
        secrets = (await client.get("/v1/webhooks/secret")).json()["secrets"]
        await wait_until_settled(client, await submit_request(client, receiver.url()))
    received = receiver.received[0]
    assert verify_webhook(received.headers, received.body, old)
    assert len(secrets) == 2
    for secret in secrets:
        Standard(secret).verify(received.body, received.headers)


async def test_a_key_that_others_may_know_is_replaced_at_once(
    delivering: House, receiver: Receiver
) -> None:
    async with delivering.client() as client:
        old = (await client.get("/.well-known/jwks.json")).json()
        await client.put("/v1/webhooks/rotate", params={"at_once": 1})
        new = (await client.get("/.well-known/jwks.json")).json()
        await wait_until_settled(client, await submit_request(client, receiver.url()))
    received = receiver.received[0]
    assert verify_webhook(received.headers, received.body, new)
    assert not verify_webhook(received.headers, received.body, old)
