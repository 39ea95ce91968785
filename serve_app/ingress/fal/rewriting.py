"""Calls that were made for one of fal's hosts, led to the paths that serve them here.

fal tells its services apart by host name; Darkroom by the first segment of the path. In this order:

1. ``x-fal-target-url``, on whatever path: where fal's JavaScript client wanted to go before its
   ``proxyUrl`` sent it here. The URL is not fetched: it says which call is meant.
2. A path that begins with a segment of Darkroom's own: ``/queue``, ``/files``, ``/v1`` …
3. The ``Host``: ``queue.*``, ``rest.*``, ``*.fal.media``. Anything else is run.
"""

from __future__ import annotations

from collections.abc import Set
from typing import cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.ingress.by_segment import first_segment
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.hosts import Service, is_fal, service_of
from serve_app.ingress.origin import host_of, origin_of
from serve_app.ingress.reply import json_reply

TARGET = b"x-fal-target-url"
BY_HOST = "darkroom.by_host"  # in the scope of a call that the third rule has led
_UNNAMED = frozenset("\0\n")
"""In no name of anything. PostgreSQL cannot be asked for the one, and no route takes the other."""
UPLOAD = "/files/upload"  # of fal's CDN; all else below /files is a file of ours


class Addressed:
    """ASGI middleware that rewrites the path of HTTP calls and WebSockets. ``own``: the first
    segments of Darkroom's own paths; what begins with one of them is left as it is."""

    def __init__(self, app: ASGIApp, own: Set[str]) -> None:
        self._app = app
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = self._led(scope)
            if not _UNNAMED.isdisjoint(scope["path"]):
                scope = cast("Scope", {**scope, "path": _replaced(scope["path"])})
        await self._app(scope, receive, send)

    def _led(self, scope: Scope) -> Scope:
        host = target = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == TARGET:
                target = value
        if target and (wanted := _fal_url(target.decode("latin-1"))) is not None:
            led = self._below(service_of(wanted.hostname or ""), wanted.path or "/")
            return _moved(scope, led or wanted.path or "/", wanted.query)
        service = service_of(host.decode("latin-1").partition(":")[0])
        if service is Service.RUN:  # it needs no prefix
            return scope
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        led = self._below(service, raw.decode("latin-1"))
        if led is None:
            return scope
        moved = _moved(scope, led, None)
        moved[BY_HOST] = True
        return moved

    def _below(self, service: Service, path: str) -> str | None:
        """``path`` below the prefix of ``service``; None when it is to stay as it is."""
        uploads = service is Service.CDN and (path == UPLOAD or path.startswith(f"{UPLOAD}/"))
        if service is Service.RUN or (first_segment(path) in self._own and not uploads):
            return None
        return f"/{service.value}{path}"


def request_base(request: HttpRequest, prefix: str) -> str:
    """What the URLs of a request begin with, when its client calls us below ``prefix``.

    A client that came to fal's own host names is sent back to them, also when there is a public
    URL: clients send their key to the origin that they submitted to, and to no other.
    """
    led = "" if request.scope.get(BY_HOST) else prefix
    host = request.headers.get("host", "")
    if is_fal(host.partition(":")[0]):
        return f"https://{host_of(request)}{led}"
    # Whether the public URL tells services apart by host is not known, so it gets the prefix.
    return origin_of(request) + (prefix if core_of(request).config.public_url else led)


async def proxied(request: HttpRequest) -> Response:
    """``/fal/proxy`` itself: whatever arrives here has named none of fal's calls."""
    exchange_of(request).route = "fal.proxy"
    given = request.headers.get("x-fal-target-url")
    said = "is missing" if given is None else f"is no URL of fal's: {given[:200]}"
    message = f"Invalid request: the header x-fal-target-url {said}."
    return json_reply({"detail": "Invalid request", "message": message}, 400)


ROUTES = [
    Route("/fal/proxy", proxied, methods=["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]),
]


def _replaced(path: str) -> str:
    """With U+FFFD, as in place of bytes that are no UTF-8: so each route says in its own words, and
    its own protocol's, that there is no such thing."""
    return "".join("\ufffd" if each in _UNNAMED else each for each in path)


def _fal_url(url: str) -> SplitResult | None:
    """The parts of a URL of fal's; None for any other, or none."""
    try:
        parts = urlsplit(url)
        fals = is_fal(parts.hostname or "") and parts.port in (None, 443)
    except ValueError:
        return None
    return parts if fals and parts.scheme in ("https", "wss") else None


def _moved(scope: Scope, raw_path: str, query: str | None) -> Scope:
    moved = cast("Scope", dict(scope))
    moved["path"], moved["raw_path"] = unquote(raw_path), raw_path.encode("latin-1", "replace")
    if query is not None:
        moved["query_string"] = query.encode("latin-1", "replace")
    return moved
