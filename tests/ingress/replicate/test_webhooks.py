"""Replicate's webhooks, verified as Replicate's own client does it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from replicate.prediction import Prediction
from replicate.webhook import (
    InvalidSecretKeyError,
    InvalidSignatureError,
    Webhooks,
    WebhookSigningSecret,
)

from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Request, State
from serve_app.ingress.replicate.prediction import renderer_of
from serve_app.ingress.replicate.webhooks import EventBuilder
from tests.ingress.house import OTHERS, House, build_house
from tests.webhooks.receiver import Receiver

IMAGES = "test/images"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(
        catalog=OTHERS, deliver=True, allow_private_webhooks=True, webhook_waits_s=(0.0,)
    ) as house:
        yield house


async def predict_and_wait(client: httpx.AsyncClient, input: dict[str, Any], **body: Any) -> Any:
    """Prediction at present, once its webhook was called, without the token that webhooks lack."""
    response = await client.post(
        f"/replicate/v1/models/{IMAGES}/predictions", json={"input": input, **body}
    )
    assert response.status_code == 201, response.text
    request_id = response.json()["id"]
    await wait_until_delivered(client, request_id)
    now = (await client.get(f"/replicate/v1/predictions/{request_id}")).json()
    now["urls"]["stream"] = now["urls"]["stream"].partition("?")[0]
    return now


async def wait_until_delivered(client: httpx.AsyncClient, request_id: str) -> None:
    async with asyncio.timeout(120):
        while True:
            sent = (await client.get(f"/v1/requests/{request_id}/webhook")).json()
            if sent.get("state") == "delivered":
                return
            await asyncio.sleep(0.02)


def sent_to(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(delivery.body) for delivery in receiver.received]


LONG = {"sleep_s": 1.3, "steps": 13}


async def test_events_are_sent_also_if_the_client_leaves_while_its_prediction_is_stored(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, begun, go = house.queue.submit, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Request:
        begun.set()
        await go.wait()
        return await submit(*args)

    monkeypatch.setattr(house.queue, "submit", slow)
    body = {"input": LONG, "webhook": receiver.url(), "webhook_events_filter": ["start"]}
    async with house.client() as client:
        leaving = asyncio.create_task(
            client.post(f"/replicate/v1/models/{IMAGES}/predictions", json=body)
        )
        await begun.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        go.set()
        async with asyncio.timeout(120):
            while not receiver.received:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert [event["status"] for event in sent_to(receiver)] == ["processing"]


async def test_by_default_start_and_logs_come_before_the_end(
    house: House, receiver: Receiver
) -> None:
    async with house.client() as client:
        now = await predict_and_wait(client, LONG, webhook=receiver.url())
    sent = sent_to(receiver)
    assert [event["status"] for event in sent] == ["processing"] * (len(sent) - 1) + ["succeeded"]
    assert sent[-1] == now
    assert 2 <= len(sent) <= 1 + 1 + 1.3 / 0.5 + 1
    assert all(Prediction(**event).id == now["id"] for event in sent)
    progress = [event["logs"].splitlines()[-1] for event in sent[:-1]]
    assert len(set(progress)) == len(progress)  # each has something new


async def test_a_stage_that_adds_nothing_to_the_log_is_not_reported(house: House) -> None:
    plot = EventBuilder(
        house.queue, renderer_of(house.services), frozenset({"logs"}), "http://here/replicate"
    )
    async with house.client() as client:
        response = await client.post(f"/queue/{IMAGES}", json={"prompt": "x"})
    request = await house.queue.wait("default", response.json()["request_id"], 10)
    running = replace(request, state=State.RUNNING)
    sent = [
        await plot(replace(running, progress=progress)) is not None
        for progress in (
            Progress(Stage.LOADING),
            Progress(Stage.ENCODING_TEXT),
            Progress(Stage.DENOISING, 1, 2),
            Progress(Stage.DENOISING, 2, 2),
            Progress(Stage.DECODING),
        )
    ]
    assert sent == [True, False, True, True, False]


async def test_each_call_is_signed_and_has_an_id_of_its_own(
    house: House, receiver: Receiver
) -> None:
    async with house.client() as client:
        await predict_and_wait(client, LONG, webhook=receiver.url())
        key = (await client.get("/replicate/v1/webhooks/default/secret")).json()["key"]
    for call in receiver.received:
        Webhooks.validate(
            headers=dict(call.headers),
            body=call.body.decode(),
            secret=WebhookSigningSecret(key=key),
            tolerance=300,
        )
    ids = [delivery.headers["webhook-id"] for delivery in receiver.received]
    assert len(set(ids)) == len(ids) >= 2


@pytest.mark.parametrize(
    ("events", "statuses"),
    [
        (["start"], ["processing"]),
        (["output"], ["succeeded"]),
        (["start", "output"], ["processing", "succeeded"]),
        (["start", "completed"], ["processing", "succeeded"]),
        (["completed", "output"], ["succeeded"]),
    ],
)
async def test_only_the_events_that_the_filter_names_are_sent(
    house: House, receiver: Receiver, events: list[str], statuses: list[str]
) -> None:
    async with house.client() as client:
        await client.post(
            f"/replicate/v1/models/{IMAGES}/predictions",
            json={"input": LONG, "webhook": receiver.url(), "webhook_events_filter": events},
            headers={"prefer": "wait"},
        )
        await receiver.until(len(statuses))
        await house.services.webhooks.notifier.aclose()
    assert [event["status"] for event in sent_to(receiver)] == statuses


async def test_a_filter_without_the_end_leaves_nothing_to_deliver_for_certain(
    house: House, receiver: Receiver
) -> None:
    async with house.client() as client:
        body = {"input": {}, "webhook": receiver.url(), "webhook_events_filter": ["output"]}
        response = await client.post(f"/replicate/v1/models/{IMAGES}/predictions", json=body)
        answer = await client.get(f"/v1/requests/{response.json()['id']}/webhook")
    assert answer.status_code == 404


@pytest.mark.parametrize("orders", [{}, {"fail": "pipeline_failed"}])
async def test_the_end_is_sent_as_the_prediction_that_one_would_ask_for(
    house: House, receiver: Receiver, orders: dict[str, Any]
) -> None:
    async with house.client() as client:
        now = await predict_and_wait(
            client, orders, webhook=receiver.url("/hook"), webhook_events_filter=["completed"]
        )
    (received,) = receiver.received
    sent = json.loads(received.body)
    assert sent == now
    assert Prediction(**sent).status == ("failed" if orders else "succeeded")


async def test_the_clients_own_check_accepts_it_with_the_tenants_secret(
    house: House, receiver: Receiver
) -> None:
    async with house.client() as client:
        await predict_and_wait(client, {}, webhook_completed=receiver.url())
        key = (await client.get("/replicate/v1/webhooks/default/secret")).json()["key"]
    (*_, received) = receiver.received
    secret = WebhookSigningSecret(key=key)
    body, headers = received.body.decode(), dict(received.headers)
    Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=300)
    with pytest.raises(InvalidSecretKeyError):
        Webhooks.validate(headers=headers, body=body, secret=WebhookSigningSecret(key="x"))
    with pytest.raises(InvalidSignatureError):
        Webhooks.validate(headers=headers, body=body + " ", secret=secret)


async def test_fals_webhooks_are_reported_as_fals(house: House, receiver: Receiver) -> None:
    async with house.client() as client:
        submitted = await client.post(
            f"/queue/{IMAGES}", params={"fal_webhook": receiver.url()}, json={"prompt": "x"}
        )
        await wait_until_delivered(client, submitted.json()["request_id"])
    assert json.loads(receiver.received[0].body)["status"] == "OK"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"webhook": "ftp://example.com"}, "webhook"),
        ({"webhook": 7}, "webhook"),
        ({"webhook_completed": "nothing"}, "webhook_completed"),
        ({"webhook": "https://x.example", "webhook_events_filter": []}, "webhook_events_filter"),
        (
            {"webhook": "https://x.example", "webhook_events_filter": ["end"]},
            "webhook_events_filter",
        ),
    ],
)
async def test_what_cannot_be_called_is_refused_by_name(
    house: House, body: dict[str, Any], field: str
) -> None:
    async with house.client() as client:
        url = f"/replicate/v1/models/{IMAGES}/predictions"
        answer = await client.post(url, json={"input": {}, **body})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == field
    assert house.replica.ran == []
