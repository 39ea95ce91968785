"""Replicate's webhooks, checked as Replicate's own client checks them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
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

from tests.ingress.house import OTHERS, House, built
from tests.webhooks.receiver import Receiver

PICTURES = "test/pictures"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with built(
        catalog=OTHERS, deliver=True, allow_private_webhooks=True, webhook_waits_s=(0.0,)
    ) as house:
        yield house


async def delivered(client: httpx.AsyncClient, input: dict[str, Any], **body: Any) -> Any:
    """The prediction as it is now, once its webhook was called."""
    made = await client.post(
        f"/replicate/v1/models/{PICTURES}/predictions", json={"input": input, **body}
    )
    assert made.status_code == 201, made.text
    request_id = made.json()["id"]
    await settled(client, request_id)
    return (await client.get(f"/replicate/v1/predictions/{request_id}")).json()


async def settled(client: httpx.AsyncClient, request_id: str) -> None:
    async with asyncio.timeout(20):
        while True:
            told = (await client.get(f"/v1/requests/{request_id}/webhook")).json()
            if told.get("state") == "delivered":
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("orders", [{}, {"fail": "pipeline_failed"}])
async def test_the_end_is_told_as_the_prediction_that_one_would_ask_for(
    house: House, receiver: Receiver, orders: dict[str, Any]
) -> None:
    async with house.client() as client:
        now = await delivered(
            client, orders, webhook=receiver.url("/hook"), webhook_events_filter=["completed"]
        )
    (received,) = receiver.received
    told = json.loads(received.body)
    assert told == now
    assert Prediction(**told).status == ("failed" if orders else "succeeded")


async def test_the_clients_own_check_accepts_it_with_the_tenants_secret(
    house: House, receiver: Receiver
) -> None:
    async with house.client() as client:
        await delivered(client, {}, webhook_completed=receiver.url())
        key = (await client.get("/replicate/v1/webhooks/default/secret")).json()["key"]
    (received,) = receiver.received
    secret = WebhookSigningSecret(key=key)
    body, headers = received.body.decode(), dict(received.headers)
    Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=300)
    with pytest.raises(InvalidSecretKeyError):
        Webhooks.validate(headers=headers, body=body, secret=WebhookSigningSecret(key="x"))
    with pytest.raises(InvalidSignatureError):
        Webhooks.validate(headers=headers, body=body + " ", secret=secret)


async def test_fals_webhooks_are_told_as_fals(house: House, receiver: Receiver) -> None:
    async with house.client() as client:
        submitted = await client.post(
            f"/queue/{PICTURES}", params={"fal_webhook": receiver.url()}, json={"prompt": "x"}
        )
        await settled(client, submitted.json()["request_id"])
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
        url = f"/replicate/v1/models/{PICTURES}/predictions"
        answer = await client.post(url, json={"input": {}, **body})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == field
    assert house.replica.ran == []
