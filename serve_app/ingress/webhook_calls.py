"""``/v1/webhooks`` and the webhook of a request: how deliveries stand, and sending them again."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.problems import invalid_input
from serve_app.domain.errors import InvalidInput
from serve_app.domain.webhook import Answer, Delivery, DeliveryState, Try
from serve_app.ingress import ids, query
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_about, caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.tenants.keys import ADMIN
from serve_app.webhooks.courier import FIRST_TIMEOUT_S
from serve_app.webhooks.signing import Parcel
from serve_app.webhooks.target import BadTarget

MAX_BODY_BYTES = 16 * 1024
MAX_PAGE = 500

TEST_BODY = (
    b'{"request_id":"%(id)s","gateway_request_id":"%(id)s","status":"OK",'
    b'"payload":{"darkroom_test":true}}'
)


class TestWish(BaseModel):
    """Whom to send a test."""

    model_config = ConfigDict(extra="forbid")

    url: str


async def listed(request: HttpRequest) -> Response:
    """A tenant's deliveries, newest request first: ``?state=dead&before=<request id>&limit=50``."""
    exchange_of(request).route = "v1.webhooks"
    _, tenant = await caller_about(request, "Webhooks")
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    before = request.query_params.get("before")
    if before is not None and not ids.valid(before):
        raise query.invalid("before", "should be the id of a request", before)
    outbox = core_of(request).webhooks.outbox
    page = await outbox.page(tenant, state=_state(request), before=before, limit=limit + 1)
    shown = page[:limit]
    return json_reply(
        {
            "webhooks": [_told(each) for each in shown],
            "next_before": shown[-1].request_id if len(page) > limit else None,
        }
    )


async def shown(request: HttpRequest) -> Response:
    """The webhook of one request, with every try."""
    exchange_of(request).route = "v1.request.webhook"
    _, tenant = await caller_about(request, "Webhooks")
    outbox = core_of(request).webhooks.outbox
    request_id = request.path_params["request_id"]
    delivery = await outbox.get(tenant, request_id)
    tries = await outbox.tries(tenant, request_id)
    return json_reply({**_told(delivery), "log": [_tried(each) for each in tries]})


async def redelivered(request: HttpRequest) -> Response:
    """Send it again, whatever became of it, with the same body and the same ``webhook-id``."""
    exchange_of(request).route = "v1.request.webhook.redeliver"
    caller, tenant = await caller_about(request, "Webhooks")
    outbox = core_of(request).webhooks.outbox
    request_id = request.path_params["request_id"]
    return json_reply(_told(await outbox.redeliver(tenant, request_id, caller.key_id)))


async def tested(request: HttpRequest) -> Response:
    """Send a signed test to a URL now, once, and tell what the receiver did."""
    exchange_of(request).route = "v1.webhooks.test"
    caller = await caller_of(request)
    try:
        wish = TestWish.model_validate(await read_json(request, MAX_BODY_BYTES))
    except ValidationError as error:
        raise invalid_input(error) from None
    webhooks = core_of(request).webhooks
    try:
        url = await webhooks.targets.check(wish.url)
    except BadTarget as wrong:
        raise InvalidInput.of_field("url", f"url {wrong}", "value_error") from None
    request_id = exchange_of(request).request_id
    body = TEST_BODY.replace(b"%(id)s", request_id.encode())
    parcel = Parcel(str(uuid4()), request_id, caller.tenant, body)
    answer = await webhooks.sender.post(url, parcel, FIRST_TIMEOUT_S)
    return json_reply(_answered(answer))


async def secret(request: HttpRequest) -> Response:
    """The tenant's secrets of Standard Webhooks; each delivery is signed by every one of them."""
    exchange_of(request).route = "v1.webhooks.secret"
    caller = await caller_of(request)
    found = await core_of(request).webhooks.signer.secrets_of(caller.tenant)
    return json_reply({"secrets": list(found)}, headers={"cache-control": "no-store"})


async def rotated(request: HttpRequest) -> Response:
    """Announce another signing key, which signs from 25 hours on; with ``?at_once=1`` it signs now
    and the others are gone."""
    exchange_of(request).route = "v1.webhooks.rotate"
    caller = await caller_of(request, ADMIN)
    at_once = query.whole(request, "at_once", default=0, most=1) == 1
    webhooks = core_of(request).webhooks
    await webhooks.seeds.rotate(caller.key_id, at_once=at_once)
    webhooks.signer.forget()
    keys = await webhooks.signer.keys()
    return json_reply({"keys": [{"kid": key.kid, "signs": key.signs} for key in keys]})


ROUTES = [
    Route("/v1/webhooks", listed, methods=["GET"]),
    Route("/v1/webhooks/test", tested, methods=["POST"]),
    Route("/v1/webhooks/secret", secret, methods=["GET"]),
    Route("/v1/webhooks/rotate", rotated, methods=["PUT"]),
    Route("/v1/requests/{request_id}/webhook", shown, methods=["GET"]),
    Route("/v1/requests/{request_id}/webhook/redeliver", redelivered, methods=["PUT"]),
]


def _state(request: HttpRequest) -> DeliveryState | None:
    given = request.query_params.get("state")
    found = [state for state in DeliveryState if state != DeliveryState.AWAITED]
    if given is None:
        return None
    if given not in found:
        raise query.invalid("state", f"should be one of {', '.join(found)}", given)
    return DeliveryState(given)


def _told(delivery: Delivery) -> dict[str, Any]:
    return {
        "request_id": delivery.request_id,
        "delivery_id": delivery.id,
        "url": delivery.url,
        "state": delivery.state.value,
        "tries": delivery.tries,
        "next_try_at": _iso(delivery.due_at),
        "created_at": _iso(delivery.created_at),
        "ended_at": _iso(delivery.ended_at),
        "status": delivery.status,
        "error": delivery.error or None,
    }


def _tried(one: Try) -> dict[str, Any]:
    return {
        "at": _iso(one.at),
        "took_s": one.took_s,
        "status": one.status,
        "error": one.error or None,
    }


def _answered(answer: Answer) -> dict[str, Any]:
    return {
        "delivered": answer.accepted,
        "took_s": answer.took_s,
        "status": answer.status,
        "error": answer.error or None,
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
