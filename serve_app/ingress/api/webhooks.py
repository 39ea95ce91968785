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
    actor_of,
    authenticate,
    authenticate_for_tenant,
    readable,
)
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Time, one_of
from serve_app.ingress.http.openapi import (
    DocumentedRoute,
    Operation,
    answer,
    in_path,
    in_query,
)
from serve_app.ingress.services import request_ids
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import OPERATOR, READ, SUBMIT
from serve_app.webhooks.delivery import TIMEOUT_S
from serve_app.webhooks.signing import SignedMessage
from serve_app.webhooks.target import BadTarget

MAX_BODY_BYTES = 16 * 1024
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


async def listed(request: HttpRequest) -> Response:
    """List deliveries, the newest request first: ``?state=dead&before=<request id>&limit=50``."""
    context_of(request).route = "v1.webhooks"
    caller, tenant = await authenticate_for_tenant(request, "Webhooks")
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    before = request.query_params.get("before")
    if before is not None and not request_ids.valid(before):
        raise query.invalid("before", "should be the id of a request", before)
    outbox = services_of(request).webhooks.outbox
    page = await outbox.page(tenant, state=_state(request), before=before, limit=limit + 1)
    shown = page[:limit]
    allowed = await readable(request, caller, tenant, {each.request_id for each in shown})
    body: WebhookPage = {
        "webhooks": [_status(each) for each in shown if each.request_id in allowed],
        "next_before": shown[-1].request_id if len(page) > limit else None,
    }
    return json_reply(body)


async def shown(request: HttpRequest) -> Response:
    """Show the webhook of one request, with every attempt."""
    context_of(request).route = "v1.request.webhook"
    _, tenant = await authenticate_for_tenant(request, "Webhooks")
    outbox = services_of(request).webhooks.outbox
    request_id = request.path_params["request_id"]
    delivery = await outbox.get(tenant, request_id)
    tries = await outbox.tries(tenant, request_id)
    body: WebhookDetails = {**_status(delivery), "log": [_try(each) for each in tries]}
    return json_reply(body)


async def redelivered(request: HttpRequest) -> Response:
    """Send a webhook again, in any state, with the same ``webhook-id`` and the same body, in which
    URLs of private files are signed again."""
    context_of(request).route = "v1.request.webhook.redeliver"
    _, tenant = await authenticate_for_tenant(request, "Webhooks")
    outbox = services_of(request).webhooks.outbox
    request_id = request.path_params["request_id"]
    return json_reply(_status(await outbox.redeliver(tenant, request_id, actor_of(request))))


async def tested(request: HttpRequest) -> Response:
    """Send one signed test to a URL now, and answer with the receiver's response."""
    context_of(request).route = "v1.webhooks.test"
    caller = await authenticate(request)
    wish = await read_model(request, TestDelivery, MAX_BODY_BYTES)
    webhooks = services_of(request).webhooks
    try:
        url = await webhooks.targets.check(wish.url, caller.tenant)
    except BadTarget as wrong:
        raise InvalidInput.of_field("url", f"url {wrong}", "value_error") from None
    request_id = context_of(request).request_id
    body = TEST_BODY.replace(b"%(id)s", request_id.encode())
    parcel = SignedMessage(str(uuid4()), request_id, caller.tenant, body)
    with webhooks.one_test(caller.tenant):
        response = await webhooks.sender.post(url, parcel, TIMEOUT_S)
    return json_reply(_test_result(response))


async def secret(request: HttpRequest) -> Response:
    """Show the tenant's Standard Webhooks secrets. Each delivery is signed with all of them."""
    context_of(request).route = "v1.webhooks.secret"
    caller = await authenticate(request)
    found = await services_of(request).webhooks.signer.secrets_of(caller.tenant)
    body: WebhookSecrets = {"secrets": list(found)}
    return json_reply(body, headers={"cache-control": "no-store"})


async def rotated(request: HttpRequest) -> Response:
    """Announce another signing key, which is used from 25 hours on.

    With ``?at_once=1`` it is used at once, and the other keys are deleted.
    """
    context_of(request).route = "v1.webhooks.rotate"
    await authenticate(request)
    at_once = query.whole(request, "at_once", default=0, most=1) == 1
    webhooks = services_of(request).webhooks
    await webhooks.seeds.rotate(actor_of(request), at_once=at_once)
    webhooks.signer.forget()
    keys = await webhooks.signer.keys()
    body: SigningKeys = {"keys": [{"kid": key.kid, "signs": key.signs} for key in keys]}
    return json_reply(body)


TAG = "webhooks"
REQUEST_ID = in_path("request_id", "Id of a request of the tenant.")
TENANT = in_query("tenant", "Default: the caller's. Another one needs the scope `operator`.")
ENDED = one_of(*(state for state in DeliveryState if state is not DeliveryState.AWAITED))

LIST = Operation(
    "listWebhooks",
    "List webhook deliveries of ended requests, newest first",
    {200: answer("A page.", WebhookPage)},
    errors=(403, 422),
    parameters=(
        in_query("state", "Only deliveries in this state.", ENDED),
        in_query("before", "`next_before` of the previous page."),
        in_query("limit", "1 to 500; default 50.", int),
        TENANT,
    ),
    tag=TAG,
)
SHOW = Operation(
    "getWebhook",
    "Show the webhook of a request, with every try",
    {200: answer("The delivery.", WebhookDetails)},
    errors=(403, 404),
    parameters=(REQUEST_ID, TENANT),
    tag=TAG,
)
REDELIVER = Operation(
    "redeliverWebhook",
    "Send a webhook again, with the same body and the same `webhook-id`",
    {200: answer("The delivery.", WebhookStatus)},
    errors=(400, 403, 404),
    parameters=(REQUEST_ID, TENANT),
    tag=TAG,
)
TEST = Operation(
    "testWebhook",
    "Send one signed test to a URL",
    {200: answer("The receiver's response.", TestResult)},
    errors=(413, 422, 429),
    body=TestDelivery,
    tag=TAG,
)
SHOW_SECRETS = Operation(
    "getWebhookSecret",
    "Show the tenant's Standard Webhooks secrets, the oldest first",
    {200: answer("The secrets.", WebhookSecrets)},
    tag=TAG,
)
ROTATE = Operation(
    "rotateWebhookKey",
    "Announce another signing key. Needs the scope `operator`",
    {200: answer("The signing keys after the rotation.", SigningKeys)},
    errors=(403, 422),
    parameters=(
        in_query("at_once", "`1`: use it now and delete the other keys.", Literal["0", "1"]),
    ),
    tag=TAG,
)

ROUTES = [
    DocumentedRoute("/v1/webhooks", listed, {"GET": LIST}, READ),
    DocumentedRoute("/v1/webhooks/test", tested, {"POST": TEST}, SUBMIT),
    DocumentedRoute("/v1/webhooks/secret", secret, {"GET": SHOW_SECRETS}, READ),
    DocumentedRoute("/v1/webhooks/rotate", rotated, {"PUT": ROTATE}, OPERATOR),
    DocumentedRoute("/v1/requests/{request_id}/webhook", shown, {"GET": SHOW}, READ),
    DocumentedRoute(
        "/v1/requests/{request_id}/webhook/redeliver", redelivered, {"PUT": REDELIVER}, SUBMIT
    ),
]


def _state(request: HttpRequest) -> DeliveryState | None:
    given = request.query_params.get("state")
    found = [state for state in DeliveryState if state != DeliveryState.AWAITED]
    if given is None:
        return None
    if given not in found:
        raise query.invalid("state", f"should be one of {', '.join(found)}", given)
    return DeliveryState(given)


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


def _try(one: DeliveryAttempt) -> WebhookTry:
    return {
        "at": one.at.isoformat(),
        "took_s": one.took_s,
        "status": one.status,
        "error": one.error or None,
    }


def _test_result(response: ReceiverResponse) -> TestResult:
    return {
        "delivered": response.accepted,
        "took_s": response.took_s,
        "status": response.status,
        "error": response.error or None,
    }
