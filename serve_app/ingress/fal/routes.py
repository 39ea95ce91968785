"""Which of fal's calls a path and a method mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound, RequestNotFound, Unsupported
from serve_app.ingress import tokens
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal import addressing, jwks, lookup, payloads, stream, submit, uploads
from serve_app.ingress.fal.paths import Part, RequestPath, before, parse
from serve_app.ingress.reply import json_reply

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]

Lookup = Callable[[HttpRequest, RequestPath, str], Awaitable[Response]]

LOOKUPS: dict[Part, tuple[str, Lookup]] = {
    Part.RESULT: ("GET", lookup.result),
    Part.STATUS: ("GET", lookup.status),
    Part.STATUS_STREAM: ("GET", lookup.status_stream),
    Part.CANCEL: ("PUT", lookup.cancel),
}


async def queue_call(request: HttpRequest) -> Response:
    """Everything under ``/queue``: submit, and the calls about a request."""
    path: str = request.path_params["path"].strip("/")
    prefix = "/queue"
    about = parse(path)
    if about is not None:
        return await _lookup(request, about, prefix)
    if request.method != "POST":
        return _not_post(request, path)
    return await submit.submit(request, path, prefix)


async def run_call(request: HttpRequest) -> Response:
    """Everything under ``/run`` and under no prefix: run. A request's own URLs work here too."""
    path: str = request.path_params["path"].strip("/")
    about = parse(path)
    if about is not None:
        return await _lookup(request, about, "")
    if request.method != "POST":
        return _not_post(request, path)
    catalog = core_of(request).catalog
    streamed = before(path, "stream", lambda each: catalog.find(each) is not None)
    if streamed is not None:
        return await stream.stream(request, streamed)
    return await submit.run(request, path)


async def other_call(request: HttpRequest) -> Response:
    """What else fal has at the hosts that ``/rest`` and ``/cdn`` stand for."""
    exchange_of(request).route = "fal.rest"
    raise Unsupported(
        f"There is no {request.method} {request.url.path} here: of fal's REST and CDN hosts, "
        "uploads and tokens are answered."
    )


ROUTES = [
    Route("/queue/{path:path}", queue_call, methods=METHODS),
    Route("/run/{path:path}", run_call, methods=METHODS),
    *payloads.ROUTES,
    *uploads.ROUTES,
    *tokens.ROUTES,
    *addressing.ROUTES,
    *jwks.ROUTES,
    Route("/rest/{path:path}", other_call, methods=METHODS),
    Route("/cdn/{path:path}", other_call, methods=METHODS),
]

UNPREFIXED = Route("/{path:path}", run_call, methods=METHODS)
"""Last of all routes: whatever else there is goes first."""


async def _lookup(request: HttpRequest, about: RequestPath, prefix: str) -> Response:
    method, call = LOOKUPS[about.part]
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        return _only(request, method)
    try:
        return await call(request, about, prefix)
    except RequestNotFound as error:
        return lookup.not_found(error)


def _not_post(request: HttpRequest, path: str) -> Response:
    if core_of(request).catalog.find(path) is None:
        raise NotFound("There is nothing here. Endpoints are called by POST to their id.")
    return _only(request, "POST")


def _only(request: HttpRequest, method: str) -> Response:
    message = f"This path takes {method}, not {request.method}."
    return json_reply({"detail": message, "message": message}, 405, {"allow": method})
