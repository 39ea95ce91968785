"""Predictions: create, show, list, cancel and stream them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import InvalidInput, RequestNotFound, Unavailable
from serve_app.domain.request import LogLine, NewRequest, Request, State
from serve_app.domain.webhook import Webhook
from serve_app.ingress.http import query, sse
from serve_app.ingress.http.auth import (
    STREAM_TOKEN,
    authenticate,
    authenticate_for_stream,
)
from serve_app.ingress.http.body import read_json
from serve_app.ingress.http.context import context_of, name_request
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import EVENTS, Operation, answer, in_header, in_path, in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.routing import prefix_locations
from serve_app.ingress.replicate.errors import ERRORS, TAG
from serve_app.ingress.replicate.headers import cancel_after_s, wait_s
from serve_app.ingress.replicate.inputs import cog_context, translate
from serve_app.ingress.replicate.prediction import (
    CURSOR,
    PREFIX,
    ReplicatePage,
    ReplicatePrediction,
    endpoint_of_version,
    listed_models,
    pieces_of,
    renderer_of,
    requested_model,
)
from serve_app.ingress.replicate.webhooks import parse_webhook
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.model_lookup import allowed_endpoints
from serve_app.ingress.submission.options import SubmitOptions, parse_options
from serve_app.ingress.submission.protocol import (
    cancel,
    find_request,
    validate_call,
    when_new,
)
from serve_app.ingress.submission.rendering import outcome_headers
from serve_app.ingress.submission.replay import add_replay_headers
from serve_app.tenants.scopes import Caller

PAGE = 100
"""Predictions in a page, as at Replicate."""

CLIENTS = ("replicate-python/", "replicate-javascript/", "ai-sdk/")
"""Parts of the header ``User-Agent`` of Replicate's clients, and of the AI SDK."""

KEEP_ALIVE_S = 15.0


class NewModelPrediction(TypedDict):
    """Input of a prediction, and its webhook."""

    input: dict[str, Any]
    context: NotRequired[
        Annotated[
            dict[str, str],
            Field(description="Of Cog models that read it: what `current_scope().context` has."),
        ]
    ]
    webhook: NotRequired[
        Annotated[str, Field(description="URL to call with the prediction at each event.")]
    ]
    webhook_events_filter: NotRequired[list[Literal["start", "output", "logs", "completed"]]]


class NewPrediction(NewModelPrediction):
    """Input of a prediction, the version to run, and its webhook."""

    version: str


class PredictionPage(ReplicatePage):
    results: list[ReplicatePrediction]


def base_of(request: HttpRequest) -> str:
    return f"{origin_of(request)}{PREFIX}"


async def create(request: HttpRequest) -> Response:
    """``POST /predictions``: create a prediction; the body names a version."""
    services = services_of(request)
    began = services.clock.monotonic()
    caller = await authenticate(request)
    body = await _body(request, services.config.limits.max_body_bytes)
    version = body.get("version")
    if not isinstance(version, str):
        raise InvalidInput.of_field("version", "Field required", "missing")
    entry = endpoint_of_version(services, caller, version)
    return await _create_prediction(
        request, services, entry, requested_model(version, entry), body, began
    )


async def created_of_model(request: HttpRequest) -> Response:
    """``POST /models/{owner}/{name}/predictions``: create a prediction of a model."""
    services = services_of(request)
    began = services.clock.monotonic()
    caller = await authenticate(request)
    body = await _body(request, services.config.limits.max_body_bytes)
    name = f"{request.path_params['owner']}/{request.path_params['name']}"
    entry = listed_models(services, caller, name)
    return await _create_prediction(
        request, services, entry, requested_model(name, entry), body, began
    )


async def show(request: HttpRequest) -> Response:
    services, prediction = await _find(request)
    return await _prediction_reply(request, services, prediction)


async def list_predictions(request: HttpRequest) -> Response:
    """List the tenant's requests, newest first, without logs and without files inside them."""
    caller = await authenticate(request)
    services = services_of(request)
    cursor = query.request_id(request, "cursor", "should be the one of the previous page")
    endpoints = allowed_endpoints(services.catalog_of(caller), caller)
    page = await services.queue.page(
        caller.tenant, endpoints=endpoints, before=cursor, limit=PAGE + 1
    )
    base = base_of(request)
    results = [await renderer_of(services).render(item, base, inline=False) for item in page[:PAGE]]
    more = f"{base}/v1/predictions?cursor={page[PAGE - 1].id}" if len(page) > PAGE else None
    body: PredictionPage = {"previous": None, "next": more, "results": results}
    return json_reply(body)


async def cancel_prediction(request: HttpRequest) -> Response:
    services, prediction = await _find(request)
    return await _prediction_reply(request, services, await cancel(request, prediction))


async def stream(request: HttpRequest) -> Response:
    """Send events: lines of the log as they arrive, the output piece by piece, and the end."""
    services, prediction = await _find(request, await authenticate_for_stream(request))
    events = _events(services, prediction, base_of(request))
    return sse.stream_reply(events, cache_control="no-store")


OWNER, NAME = in_path("owner", "Owner of the model."), in_path("name", "Name of the model.")
ONE = in_path("request_id", "Id of the prediction.")
PREFER = in_header("Prefer", "`wait` or `wait=n`: answer at the end, or after n seconds.")
CANCEL_AFTER = in_header(
    "Cancel-After", "Time such as `30s` or `1h30m` after which the prediction is canceled."
)
AT_SUBMIT = (400, 403, 404, 413, 422, 429, 503, 507)

CREATE = Operation(
    "replicateCreatePrediction",
    "Submit a request to the endpoint of a version, or of `owner/name`",
    {
        201: answer(
            "The request is stored, or with `Prefer: wait` has ended.", ReplicatePrediction
        ),
        202: answer("With `Prefer: wait`: the request has not ended yet.", ReplicatePrediction),
    },
    errors=AT_SUBMIT,
    parameters=(PREFER, CANCEL_AFTER),
    body=NewPrediction,
    tag=TAG,
    error_format=ERRORS,
)
CREATE_OF_MODEL = replace(
    CREATE,
    name="replicateCreateModelPrediction",
    summary="Submit a request to a model's endpoint",
    parameters=(OWNER, NAME, PREFER, CANCEL_AFTER),
    body=NewModelPrediction,
)
LIST = Operation(
    "replicateListPredictions",
    "List the tenant's requests, newest first",
    {200: answer("A page.", PredictionPage)},
    errors=(422,),
    parameters=(CURSOR,),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = Operation(
    "replicateGetPrediction",
    "Show a request and its output",
    {200: answer("The request.", ReplicatePrediction)},
    errors=(404,),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
CANCEL = replace(SHOW, name="replicateCancelPrediction", summary="Cancel a request")
STREAM = replace(
    SHOW,
    name="replicateStreamPrediction",
    summary="Stream the log of a request, and then its output",
    parameters=(ONE, in_query(STREAM_TOKEN, "Of `urls.stream`, in place of a key.")),
    responses={200: answer("Server-sent events: logs, output, error, done.", str, EVENTS)},
)


async def _create_prediction(
    request: HttpRequest,
    services: Services,
    entry: CatalogEntry,
    model: str,
    body: Mapping[str, Any],
    began: float,
) -> Response:
    """Store a prediction, and answer with it. ``model``: as the call named it.

    With ``Prefer: wait`` the response waits for the end. The time is counted from ``began``, before
    the body was read: Replicate's client gives up half a second after it, and would never learn the
    id.
    """
    caller = await authenticate(request)
    longest_wait_s = wait_s(request.headers)
    base_of(request)  # may be refused, so read it before anything is stored
    hook_request = await parse_webhook(body, services.webhooks, origin_of(request), caller.tenant)
    webhook = hook_request.webhook(services.webhooks.notifier) if hook_request else None
    context = cog_context(entry, body)
    try:
        entry, inputs = translate(services.catalog_of(caller), entry, body.get("input", {}))
        options = _options(request, caller, webhook).naming(model)
        new = await validate_call(
            request, caller, entry.endpoint.id, {**inputs, **context}, options
        )
    except InvalidInput as error:
        raise prefix_locations("input", error) from None
    storing = submission.submit(services, new)
    if hook_request:  # also if the client leaves meanwhile: its prediction goes on
        storing.add_done_callback(partial(when_new, new, partial(hook_request.follow, services)))
    stored = await asyncio.shield(storing)
    return await _answer_prediction(
        request, new, stored, began + longest_wait_s if longest_wait_s else None
    )


def _options(request: HttpRequest, caller: Caller, webhook: Webhook | None) -> SubmitOptions:
    options = parse_options(request, caller, webhook=webhook)
    end_s, own_s = cancel_after_s(request.headers), options.end_within_s
    return options if end_s is None else replace(options, end_within_s=min(end_s, own_s or end_s))


async def _answer_prediction(
    request: HttpRequest, new: NewRequest, stored: Request, until: float | None
) -> Response:
    """Answer 201 with the prediction, at once or at its end. It is 202 if it has not ended at the
    monotonic time ``until``, in seconds, or if the wait fails."""
    services, base = services_of(request), base_of(request)
    lines: Sequence[LogLine] = ()
    # An error would have no id, and the client would create a second prediction.
    with contextlib.suppress(Unavailable):
        left_s = until - services.clock.monotonic() if until is not None else 0.0
        if left_s > 0 and not stored.state.final:
            stored = await services.queue.wait(stored.tenant, stored.id, left_s)
        lines = await services.queue.lines(stored.tenant, stored.id)
    inside = _wants_files_inside(request, base)
    try:
        prediction = await renderer_of(services).render(stored, base, lines, inside=inside)
    except Unavailable:  # its files cannot be read now: the client asks for them later
        stored = replace(stored, state=State.RUNNING, outcome=None, finished_at=None)
        prediction = await renderer_of(services).render(stored, base, lines)
    late = until is not None and not stored.state.final
    if late:
        # Replicate's client takes any other status for the end of a prediction it waited for.
        prediction["status"] = "starting"
    body = _with_stream_token(request, prediction)
    reply = json_reply(body, 202 if late else 201, outcome_headers(stored))
    return add_replay_headers(request, reply, new, stored)


async def _body(request: HttpRequest, max_bytes: int) -> Mapping[str, Any]:
    body = await read_json(request, max_bytes)
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object with `input`.")
    fields = cast("Mapping[str, Any]", body)
    if not isinstance(fields.get("input", {}), dict):
        raise InvalidInput.of_field("input", "Input should be an object", "dict_type")
    return fields


async def _find(request: HttpRequest, caller: Caller | None = None) -> tuple[Services, Request]:
    """Prediction of the path."""
    caller, services = caller or await authenticate(request), services_of(request)
    request_id: str = request.path_params["request_id"]
    what = f"prediction {request_id[:64]}"
    prediction = await find_request(services.queue, caller.tenant, request_id, what)
    name_request(request, prediction)
    return services, prediction


async def _prediction_reply(request: HttpRequest, services: Services, record: Request) -> Response:
    lines = await services.queue.lines(record.tenant, record.id)
    base = base_of(request)
    inside = _wants_files_inside(request, base)
    prediction = await renderer_of(services).render(record, base, lines, inside=inside)
    return json_reply(_with_stream_token(request, prediction), headers=outcome_headers(record))


def _with_stream_token(
    request: HttpRequest, prediction: ReplicatePrediction
) -> ReplicatePrediction:
    """With a token in the stream's address, for the key of the call: Replicate's JavaScript client
    asks for it without a key."""
    tokens = services_of(request).identity.stream_tokens
    token = tokens.issue(context_of(request).key_id, prediction["id"])
    if token is not None:
        prediction["urls"]["stream"] += f"?{STREAM_TOKEN}={token}"
    return prediction


def _wants_files_inside(request: HttpRequest, base: str) -> bool:
    """True for Replicate's own clients and the AI SDK over plain HTTP.

    Replicate's make file objects, with ``read()`` and ``url``, of ``https:`` and ``data:`` only; an
    ``http:`` URL stays a string, with which no example of their documentation works. The AI SDK
    fetches no file from a private address.
    """
    agent = request.headers.get("user-agent", "")
    return base.startswith("http:") and any(client in agent for client in CLIENTS)


async def _events(services: Services, request: Request, base: str) -> AsyncGenerator[bytes]:
    """Server-sent events. They stop early if the database fails or the request is deleted."""
    after = 0
    try:
        while True:
            for line in await services.queue.lines(request.tenant, request.id, after):
                after = line.sequence
                yield sse.text_event(line.message, event="logs", id=f"log-{after}")
            if request.state.final:
                break
            before = request
            request = await services.queue.wait_for_change(
                request.tenant, request.id, KEEP_ALIVE_S, since=request
            )
            if request == before:
                yield sse.NOTHING_NEW
        prediction = await renderer_of(services).render(request, base)
    except (RequestNotFound, Unavailable):
        return
    for number, piece in enumerate(pieces_of(prediction["output"])):
        yield sse.text_event(piece, event="output", id=f"output-{number}")
    if prediction["status"] == "failed":
        yield sse.event(json.dumps({"detail": prediction["error"]}), event="error", id="error")
    else:
        reason = {"reason": "canceled"} if prediction["status"] == "canceled" else {}
        yield sse.event(json.dumps(reason), event="done", id="done")
