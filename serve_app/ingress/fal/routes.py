"""Routes of fal's calls, by path and method, and its tokens for browsers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import (
    FieldProblem,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    RequestNotFound,
    Unsupported,
)
from serve_app.ingress.fal import (
    requests,
    rewriting,
    stream,
    submit,
    uploads,
    webhooks,
)
from serve_app.ingress.http import sse
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.http.paths import RequestPath, RequestResource, parse, strip_verb
from serve_app.ingress.http.route_scopes import BY_CALL, NO_KEY, ScopedRoute
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import SUBMIT

# ``/rest/tokens``: tokens for browsers, which should not have the key itself.

MAX_TOKEN_BODY_BYTES = 16 * 1024
LONGEST_S = 3600
"""Longest validity of a token in seconds, because a token cannot be revoked."""

App = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[int, Field(ge=1, le=LONGEST_S)]


class NewToken(BaseModel):
    """Endpoints that a token allows, and how long it is valid.

    fal's present clients send the first two fields, newer ones also the others.
    """

    allowed_apps: list[App] = Field(default_factory=list, max_length=100)
    token_expiration: Seconds = 120
    app: App | None = None
    duration: Seconds | None = None


async def issue_token(request: HttpRequest) -> Response:
    """Issue a token; answer with it as a JSON string."""
    context_of(request).route = "fal.token"
    caller = await authenticate(request)
    body = await read_model(request, NewToken, MAX_TOKEN_BODY_BYTES)
    apps = [*body.allowed_apps, *([body.app] if body.app else [])]
    if not apps:
        message = "allowed_apps should name at least one app"
        raise InvalidInput(
            f"{message}.", (FieldProblem(("body", "allowed_apps"), message, "missing"),)
        )
    valid_s = body.duration or body.token_expiration
    return json_reply(services_of(request).identity.tokens.issue(caller, apps, valid_s))


ISSUE_TOKEN = Operation(
    "issueToken",
    "Issue a token for streams and realtime sessions of some endpoints",
    {200: answer("The token.", str)},
    errors=(400, 413, 422),
    body=NewToken,
    tag="tokens",
)

TOKEN_ROUTES = [
    DocumentedRoute("/rest/tokens", issue_token, {"POST": ISSUE_TOKEN}, SUBMIT),
    DocumentedRoute(
        "/rest/tokens/",
        issue_token,
        {"POST": replace(ISSUE_TOKEN, name="issueShortToken")},
        SUBMIT,
    ),
    DocumentedRoute(
        "/rest/tokens/realtime",
        issue_token,
        {"POST": replace(ISSUE_TOKEN, name="issueRealtimeToken")},
        SUBMIT,
    ),
]


# Dispatch by path and method.

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]

Lookup = Callable[[HttpRequest, RequestPath, str], Awaitable[Response]]

LOOKUPS: dict[RequestResource, tuple[str, Lookup]] = {
    RequestResource.RESULT: ("GET", requests.result),
    RequestResource.STATUS: ("GET", requests.status),
    RequestResource.STATUS_STREAM: ("GET", requests.status_stream),
    RequestResource.CANCEL: ("PUT", requests.cancel),
}


async def queue_call(request: HttpRequest) -> Response:
    """Dispatch a call under ``/queue``: a submit, or a call about a request."""
    path: str = request.path_params["path"].strip("/")
    prefix = "/queue"
    about = parse(path)
    if about is not None:
        return await _lookup(request, about, prefix)
    _require_post(request, path)
    return await submit.submit(request, path, prefix)


async def run_call(request: HttpRequest) -> Response:
    """Dispatch a call under ``/run`` or without prefix: a run, or a call about a request."""
    path: str = request.path_params["path"].strip("/")
    about = parse(path)
    if about is not None:
        return await _lookup(request, about, "")
    _require_post(request, path)
    catalog = services_of(request).catalog
    entry = catalog.find(path)
    if entry is not None and entry.endpoint.streams and _wants_events(request, path):
        return await stream.stream(request, path)
    streamed = strip_verb(path, "stream", lambda endpoint_id: catalog.find(endpoint_id) is not None)
    if streamed is not None:
        return await stream.stream(request, streamed)
    return await submit.run(request, path)


def _wants_events(request: HttpRequest, path: str) -> bool:
    """True for a call of a generator's own path by ``fal.stream``: an app may name it ``/stream``,
    and clients may name any path."""
    return path.endswith("/stream") or sse.MEDIA_TYPE in request.headers.get("accept", "")


async def unsupported_call(request: HttpRequest) -> Response:
    """Refuse the other calls of fal's hosts that ``/rest`` and ``/cdn`` stand for."""
    context_of(request).route = "fal.rest"
    raise Unsupported(
        f"{request.method} {request.url.path} is not supported here. Of fal's REST and CDN hosts, "
        "only uploads and tokens are supported."
    )


def _catch_all_route(host: str) -> DocumentedRoute:
    calls = {
        method: Operation(
            f"{host}{method.title()}",
            "Any other call of fal's; not supported",
            {},
            errors=(400,),
            parameters=(in_path("path", "Any path."),),
            tag="not supported",
            key=False,
        )
        for method in ("GET", "POST", "PUT")
    }
    return DocumentedRoute(f"/{host}/{{path:path}}", unsupported_call, calls, NO_KEY, METHODS)


ROUTES = [
    ScopedRoute("/queue/{path:path}", queue_call, methods=METHODS, scope=BY_CALL),
    ScopedRoute("/run/{path:path}", run_call, methods=METHODS, scope=BY_CALL),
    *requests.ROUTES,
    *uploads.ROUTES,
    *TOKEN_ROUTES,
    *rewriting.ROUTES,
    *webhooks.ROUTES,
    *(_catch_all_route(host) for host in ("rest", "cdn")),
]

UNPREFIXED = ScopedRoute("/{path:path}", run_call, methods=METHODS, scope=BY_CALL)
"""Route that matches any path, so it must be the last one."""


async def _lookup(request: HttpRequest, about: RequestPath, prefix: str) -> Response:
    method, call = LOOKUPS[about.part]
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise MethodNotAllowed.of_call(request.method, [method])
    try:
        return await call(request, about, prefix)
    except RequestNotFound as error:
        return requests.not_found(error)


def _require_post(request: HttpRequest, path: str) -> None:
    """``MethodNotAllowed``; ``NotFound``: there is no such endpoint."""
    if request.method == "POST":
        return
    catalog = services_of(request).catalog
    if catalog.find(path) is not None:
        raise MethodNotAllowed.of_call(request.method, ["POST"])
    if catalog.find(path.removesuffix("/realtime")) is not None:
        raise NotFound(
            "A realtime session is a WebSocket. If the client opened one, a proxy in front of "
            "Darkroom removed its header Upgrade: have it pass WebSockets."
        )
    raise NotFound("There is nothing at this path. Call an endpoint by POST to its id.")
