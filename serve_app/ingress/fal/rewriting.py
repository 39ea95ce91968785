"""Rewriting of calls for fal's hosts to the paths that serve them here.

fal separates its services by host name, Darkroom by the first segment of the path. The rules apply
in this order:

1. The header ``x-fal-target-url``, at ``/fal/proxy`` and below: the URL that fal's JavaScript
   client wanted before its ``proxyUrl`` sent the call here. The URL is not fetched, it only names
   the call. On other paths the header means nothing, so that the rules of a proxy for a path cannot
   be evaded and a cache never stores the response of another path.
2. A path that begins with a segment of Darkroom's own: ``/queue``, ``/files``, ``/v1`` …
3. The ``Host`` header: ``queue.*``, ``rest.*``, ``*.fal.media``. Any other host means run.
"""

from __future__ import annotations

from collections.abc import Set
from typing import cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.hosts import Service, is_fal, service_of
from serve_app.ingress.http.origin import host_of, origin_of
from serve_app.ingress.http.route_scopes import NO_KEY, ScopedRoute
from serve_app.ingress.http.routing import first_segment
from serve_app.ingress.services.services import services_of

TARGET = b"x-fal-target-url"
PROXY_PATH = "/fal/proxy"
_VARY = (b"vary", TARGET)
REWRITTEN_BY_HOST = "darkroom.by_host"  # in the scope of a call that rule 3 has rewritten
_UNNAMED = frozenset("\0\n")
"""Characters that no name contains. PostgreSQL refuses NUL, and no route matches a line feed."""
UPLOAD = "/files/upload"  # of fal's CDN; the rest of /files is Darkroom's


class PathRewriting:
    """ASGI middleware that rewrites the path of HTTP calls and WebSockets.

    ``own``: first segments of Darkroom's own paths. A path that begins with one is not rewritten.
    """

    def __init__(self, app: ASGIApp, own: Set[str]) -> None:
        self._app = app
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            if _is_proxy_path(scope["path"]):
                send = _varying(send)
            scope = self._rewrite_scope(scope)
            if not _UNNAMED.isdisjoint(scope["path"]):
                scope = cast("Scope", {**scope, "path": _sanitize_path(scope["path"])})
        await self._app(scope, receive, send)

    def _rewrite_scope(self, scope: Scope) -> Scope:
        host = target = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == TARGET and _is_proxy_path(scope["path"]):
                target = value
        if target and (url := _fal_url(target.decode("latin-1"))) is not None:
            led = self._below(service_of(url.hostname or ""), url.path or "/")
            return _with_path(scope, led or url.path or "/", url.query)
        service = service_of(host.decode("latin-1").partition(":")[0])
        if service is Service.RUN:  # it needs no prefix
            return scope
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        led = self._below(service, raw.decode("latin-1"))
        if led is None:
            return scope
        moved = _with_path(scope, led, None)
        moved[REWRITTEN_BY_HOST] = True
        return moved

    def _below(self, service: Service, path: str) -> str | None:
        """``path`` below the prefix of ``service``; None if it must not be rewritten."""
        uploads = service is Service.CDN and (path == UPLOAD or path.startswith(f"{UPLOAD}/"))
        if service is Service.RUN or (first_segment(path) in self._own and not uploads):
            return None
        return f"/{service.value}{path}"


def request_base(request: HttpRequest, prefix: str) -> str:
    """Base of the URLs of a request, for a client that calls below ``prefix``.

    A client that used one of fal's host names gets URLs with that host, even if there is a public
    URL: clients send their key only to the origin to which they submitted.
    """
    led = "" if request.scope.get(REWRITTEN_BY_HOST) else prefix
    host = request.headers.get("host", "")
    if is_fal(host.partition(":")[0]):
        return f"https://{host_of(request)}{led}"
    # The host of the public URL may not name a service, so the prefix is added.
    return origin_of(request) + (prefix if services_of(request).config.server.public_url else led)


async def proxy_without_target(request: HttpRequest) -> Response:
    """Answer a call to ``/fal/proxy`` itself, which did not name one of fal's calls: 400."""
    context_of(request).route = "fal.proxy"
    target = request.headers.get("x-fal-target-url")
    problem = "is missing" if target is None else f"is not a URL of fal's: {target[:200]}"
    message = f"Invalid request: the header x-fal-target-url {problem}."
    return json_reply({"detail": "Invalid request", "message": message}, 400)


ROUTES = [
    ScopedRoute(
        PROXY_PATH,
        proxy_without_target,
        methods=["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"],
        scope=NO_KEY,
    ),
]


def _is_proxy_path(path: str) -> bool:
    return path == PROXY_PATH or path.startswith(f"{PROXY_PATH}/")


def _varying(send: Send) -> Send:
    """Add to a response that it depends on the target, for caches."""

    async def varying(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _VARY]
        await send(message)

    return varying


def _sanitize_path(path: str) -> str:
    """Replace these characters by U+FFFD, as is done for bytes that are not UTF-8. Each route then
    answers "not found" in the format of its own protocol."""
    return "".join("\ufffd" if char in _UNNAMED else char for char in path)


def _fal_url(url: str) -> SplitResult | None:
    """Parts of a URL of fal's; None for any other text."""
    try:
        parts = urlsplit(url)
        fals = is_fal(parts.hostname or "") and parts.port in (None, 443)
    except ValueError:
        return None
    return parts if fals and parts.scheme in ("https", "wss") else None


def _with_path(scope: Scope, raw_path: str, query: str | None) -> Scope:
    moved = cast("Scope", dict(scope))
    moved["path"], moved["raw_path"] = unquote(raw_path), raw_path.encode("latin-1", "replace")
    if query is not None:
        moved["query_string"] = query.encode("latin-1", "replace")
    return moved
