"""The outermost layer: what every answer has, whatever it is."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.domain.errors import DarkroomError
from serve_app.ingress.core import Core
from serve_app.ingress.exchange import Exchange, attach
from serve_app.ingress.fal import headers
from serve_app.telemetry import logs

log = logging.getLogger(__name__)

_EXPOSED = (
    b"*, x-fal-request-id, x-fal-error-type, x-fal-retryable, x-fal-request-timeout-type, "
    b"x-request-id, x-should-retry, x-darkroom-replayed, x-darkroom-cache, x-darkroom-endpoint, "
    b"x-darkroom-demo, x-darkroom-step, retry-after, etag, content-range"
)
_ID_HEADERS = (b"x-fal-request-id", b"x-request-id")
"""Where the clients of fal and of OpenAI read the request's id."""
_CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", _EXPOSED),
)
_PREFLIGHT = (
    *_CORS,
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (b"access-control-max-age", b"86400"),
    (b"content-length", b"0"),
)
_USUAL = (
    b"authorization, content-type, accept, range, if-range, if-none-match, last-event-id, prefer"
).split(b", ")
_ALLOWED = b", ".join([*_USUAL, *sorted(headers.NAMES), b"x-fal-file-name"])
"""For those who ask for no header by name."""


class Edge:
    """ASGI middleware: request id, CORS, errors as JSON, metrics. Plain ASGI, because a wrapper
    that buffers or spawns tasks would cost more than the call itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        core: Core = scope["app"].state.core
        exchange = Exchange(core.new_id())
        attach(scope, exchange)
        if scope["type"] == "websocket":  # it ends itself, and what it counts are its frames
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await _preflight(scope, exchange, send)
            return
        began = core.clock.monotonic()
        try:
            with logs.about(exchange.request_id):
                await self._serve(scope, receive, _Stamped(send, exchange), exchange)
        finally:
            elapsed_s = core.clock.monotonic() - began
            core.metrics.answered(exchange.route, exchange.status, elapsed_s)

    async def _serve(
        self, scope: Scope, receive: Receive, send: _Stamped, exchange: Exchange
    ) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            log.info("the client went away while it was sending")
            exchange.status = 499
        except Exception as error:
            scope["app"].state.core.metrics.unexpected(exchange.route)
            log.exception("unexpected error while serving %s", exchange.route)
            if exchange.status:
                raise  # the answer has begun: only the connection's end can tell the client
            message = f"Unexpected {type(error).__name__}; the log has it under this request's id."
            await exchange.refusal(DarkroomError(message))(scope, receive, send)


class _Stamped:
    """Adds to the answer what every answer has."""

    __slots__ = ("_exchange", "_send")

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._exchange.status = message["status"]
            request_id = self._exchange.request_id.encode()
            ids = ((name, request_id) for name in _ID_HEADERS)
            message["headers"] = [*message["headers"], *ids, *_CORS]
        await self._send(message)


async def _preflight(scope: Scope, exchange: Exchange, send: Send) -> None:
    # Browsers do not take `*` for Authorization, so what is asked for is named.
    asked = next((v for k, v in scope["headers"] if k == b"access-control-request-headers"), b"")
    answered = [
        *_PREFLIGHT,
        (b"access-control-allow-headers", asked or _ALLOWED),
        (b"vary", b"access-control-request-headers"),
        (b"x-fal-request-id", exchange.request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": answered})
    await send({"type": "http.response.body", "body": b""})
