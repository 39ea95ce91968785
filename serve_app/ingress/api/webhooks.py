"""``/v1/webhooks`` and the webhook of a request: state of deliveries, and redelivery."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import InvalidInput
from serve_app.domain.webhook import (
    DeliveryAttempt,
    DeliveryState,
    ReceiverResponse,
    WebhookDelivery,
)
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import (
    readable,
)
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Time, one_of
from serve_app.ingress.http.openapi import (
    in_path,
    in_query,
)
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services import request_ids
from serve_app.tenants.scopes import OPERATOR, READ, SUBMIT
from serve_app.webhooks.delivery import TIMEOUT_S
from serve_app.webhooks.signing import SignedMessage
from serve_app.webhooks.target import BadTarget

MAX_PAGE = 500

TEST_BODY = (
    b'{"request_id":"%(id)s","gateway_request_id":"%(id)s","status":"OK",'
    b'"payload":{"darkroom_test":true}}'
)


class TestDelivery(BaseModel):
    """Receiver of a test."""

    model_config = ConfigDict(extra="forbid")

    url: str


class WebhookStatus(TypedDict):
    """Delivery of a request's webhook."""

    request_id: str
    delivery_id: Annotated[str | None, Field(description="Null until the request has ended.")]
    url: str
    state: DeliveryState
    tries: int
    next_try_at: Time | None
    created_at: Time | None
    ended_at: Time | None
    status: Annotated[int | None, Field(description="HTTP status of the last try.")]
    error: str | None


class WebhookTry(TypedDict):
    """One try to deliver a webhook."""

    at: Time
    took_s: float
    status: int | None
    error: str | None


class WebhookDetails(WebhookStatus):
    """Delivery of a request's webhook, with every try."""

    log: list[WebhookTry]


class WebhookPage(TypedDict):
    webhooks: list[WebhookStatus]
    next_before: str | None


class TestResult(TypedDict):
    """Response of a receiver to a test."""

    delivered: bool
    took_s: float
    status: int | None
    error: str | None


class WebhookSecrets(TypedDict):
    secrets: Annotated[list[str], Field(description="The oldest first.")]


class SigningKeyStatus(TypedDict):
    kid: str
    signs: Annotated[bool, Field(description="Webhooks are signed with this key.")]


class SigningKeys(TypedDict):
    keys: list[SigningKeyStatus]


TAG = "webhooks"
REQUEST_ID = in_path("request_id", "Id of a request of the tenant.")
ENDED = one_of(*(state for state in DeliveryState if state is not DeliveryState.AWAITED))
calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/webhooks",
    "listWebhooks",
    "List webhook deliveries of ended requests, newest first",
    READ,
    errors=(422,),
    parameters=(
        in_query("state", "Only deliveries in this state.", ENDED),
        in_query("before", "`next_before` of the previous page."),
        in_query("limit", "1 to 500; default 50.", int),
    ),
    tag=TAG,
    tenants="Webhooks",
)
async def list_webhooks(call: Call) -> WebhookPage:
    request, tenant = call.request, call.owner
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    before = request.query_params.get("before")
    if before is not None and not request_ids.valid(before):
        raise query.invalid("before", "should be the id of a request", before)
    outbox = call.services.webhooks.outbox
    page = await outbox.page(tenant, state=_state(request), before=before, limit=limit + 1)
    shown = page[:limit]
    allowed = await readable(
        request, call.caller, tenant, {delivery.request_id for delivery in shown}
    )
    return {
        "webhooks": [_status(delivery) for delivery in shown if delivery.request_id in allowed],
        "next_before": shown[-1].request_id if len(page) > limit else None,
    }


@calls.call(
    "/v1/requests/{request_id}/webhook",
    "getWebhook",
    "Show the webhook of a request, with every try",
    READ,
    errors=(404,),
    parameters=(REQUEST_ID,),
    tag=TAG,
    tenants="Webhooks",
)
async def show_webhook(call: Call) -> WebhookDetails:
    outbox, request_id = call.services.webhooks.outbox, call.request.path_params["request_id"]
    delivery = await outbox.get(call.owner, request_id)
    tries = await outbox.tries(call.owner, request_id)
    return {**_status(delivery), "log": [_try(attempt) for attempt in tries]}


@calls.call(
    "/v1/requests/{request_id}/webhook/redeliver",
    "redeliverWebhook",
    "Send a webhook again, with the same body and the same `webhook-id`",
    SUBMIT,
    errors=(400, 404),
    parameters=(REQUEST_ID,),
    tag=TAG,
    tenants="Webhooks",
    method="PUT",
)
async def redeliver(call: Call) -> WebhookStatus:
    """In any state. URLs of private files in the body are signed again."""
    outbox, request_id = call.services.webhooks.outbox, call.request.path_params["request_id"]
    return _status(await outbox.redeliver(call.owner, request_id, call.actor))


@calls.send(
    "/v1/webhooks/test",
    "testWebhook",
    "Send one signed test to a URL",
    TestDelivery,
    SUBMIT,
    tag=TAG,
)
async def send_test(call: Call, wish: TestDelivery) -> TestResult:
    webhooks, tenant = call.services.webhooks, call.caller.tenant
    try:
        url = await webhooks.targets.check(wish.url, tenant)
    except BadTarget as wrong:
        raise InvalidInput.of_field("url", f"url {wrong}", "value_error") from None
    request_id = context_of(call.request).request_id
    body = TEST_BODY.replace(b"%(id)s", request_id.encode())
    parcel = SignedMessage(str(uuid4()), request_id, tenant, body)
    with webhooks.one_test(tenant):
        response = await webhooks.sender.post(url, parcel, TIMEOUT_S)
    return _test_result(response)


@calls.call(
    "/v1/webhooks/secret",
    "getWebhookSecret",
    "Show the tenant's Standard Webhooks secrets, the oldest first",
    READ,
    reply=WebhookSecrets,
    tag=TAG,
)
async def show_secrets(call: Call) -> Response:
    """Each delivery is signed with all of them."""
    secrets = await call.services.webhooks.signer.secrets_of(call.caller.tenant)
    body: WebhookSecrets = {"secrets": list(secrets)}
    return json_reply(body, headers={"cache-control": "no-store"})


@calls.call(
    "/v1/webhooks/rotate",
    "rotateWebhookKey",
    "Announce another signing key",
    OPERATOR,
    errors=(422,),
    parameters=(
        in_query("at_once", "`1`: use it now and delete the other keys.", Literal["0", "1"]),
    ),
    tag=TAG,
    method="PUT",
)
async def rotate_key(call: Call) -> SigningKeys:
    """It is used from 25 hours on; with ``?at_once=1`` at once."""
    at_once = query.whole_number(call.request, "at_once", default=0, most=1) == 1
    webhooks = call.services.webhooks
    await webhooks.seeds.rotate(call.actor, at_once=at_once)
    webhooks.signer.forget()
    keys = await webhooks.signer.keys()
    return {"keys": [{"kid": key.kid, "signs": key.signs} for key in keys]}


def _state(request: HttpRequest) -> DeliveryState | None:
    name = request.query_params.get("state")
    states = [state for state in DeliveryState if state != DeliveryState.AWAITED]
    if name is None:
        return None
    if name not in states:
        raise query.invalid("state", f"should be one of {', '.join(states)}", name)
    return DeliveryState(name)


def _status(delivery: WebhookDelivery) -> WebhookStatus:
    return {
        "request_id": delivery.request_id,
        "delivery_id": delivery.id,
        "url": delivery.url,
        "state": delivery.state,
        "tries": delivery.tries,
        "next_try_at": iso(delivery.due_at),
        "created_at": iso(delivery.created_at),
        "ended_at": iso(delivery.ended_at),
        "status": delivery.status,
        "error": delivery.error or None,
    }


def _try(attempt: DeliveryAttempt) -> WebhookTry:
    return {
        "at": attempt.at.isoformat(),
        "took_s": attempt.took_s,
        "status": attempt.status,
        "error": attempt.error or None,
    }


def _test_result(response: ReceiverResponse) -> TestResult:
    return {
        "delivered": response.is_accepted,
        "took_s": response.took_s,
        "status": response.status,
        "error": response.error or None,
    }
