"""Middleware: request ids, CORS, errors, and metrics of all calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import cast

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.domain.errors import DarkroomError
from serve_app.ingress.http import sse
from serve_app.ingress.http.body import PacedBody
from serve_app.ingress.http.context import RequestContext, attach_context
from serve_app.ingress.http.errors import allowance_headers
from serve_app.ingress.services.replies import Allowances
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission import options
from serve_app.telemetry import logs
from serve_app.telemetry.trace_context import encoded_headers

log = logging.getLogger(__name__)

_EXPOSED = (
    b"*, x-fal-request-id, x-fal-error-type, x-fal-retryable, x-fal-request-timeout-type, "
    b"x-request-id, x-should-retry, x-darkroom-replayed, x-darkroom-cache, x-darkroom-endpoint, "
    b"x-darkroom-demo, x-darkroom-step, retry-after, etag, content-range, traceparent, tracestate, "
    b"x-fal-billable-units, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    b"x-ratelimit-reset-requests, x-darkroom-budget-limit, x-darkroom-budget-remaining, "
    b"x-darkroom-budget-reset, x-darkroom-safety"
)
_ID_HEADERS = (b"x-request-id", b"x-fal-request-id")
"""Headers in which the clients of OpenAI and of fal read the request's id."""
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
    b"authorization, content-type, accept, range, if-range, if-none-match, last-event-id, prefer, "
    b"traceparent, tracestate"
).split(b", ")
_ALLOWED = b", ".join([*_USUAL, *sorted(options.HEADERS), b"x-fal-file-name"])
"""Allowed headers for a preflight call that names none."""


PROBES = frozenset({"/healthz", "/readyz", "/readyz/reads"})
"""Paths that a load balancer calls also at rest."""
_OF_BODIES = (b"content-length", b"transfer-encoding")


class RequestMiddleware:
    """ASGI middleware for request ids, CORS, errors as JSON, and metrics.

    It is plain ASGI, because a wrapper that buffers or starts tasks would cost more than the call
    itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        if scope["path"] not in PROBES:
            services.rest.note_call()
        context = RequestContext(services.new_id())
        attach_context(scope, context)
        span = None
        if services.tracing is not None and _is_traced(scope):
            span = services.tracing.begin_call(scope["headers"])
            context.trace = span.trace
        services.open_access.begin(context)
        try:
            await self._call(services, context, scope, receive, send)
        finally:
            services.open_access.end(context)
            if context.close is not None:
                context.close()
            if span is not None:
                method, route = scope.get("method", "GET"), context.route
                span.end_call(method, route, context.request_id, context.status, context.error)

    async def _call(
        self,
        services: Services,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        if scope["type"] == "websocket":  # the session closes it, and counts frames instead
            await self._app(scope, receive, send)
            return
        body = PacedBody(receive, services.clock, scope["headers"]) if _has_body(scope) else None
        if scope["method"] == "OPTIONS":
            await _preflight(scope, context, body, send)
            return
        began = services.clock.monotonic()
        try:
            with logs.log_context(context.request_id):
                stamped = _Stamped(send, context, services.replies.allowances, body)
                await self._serve(scope, body or receive, stamped, context)
        finally:
            context.end_work()
            elapsed_s = services.clock.monotonic() - began
            services.metrics.record_response(context.route, context.status, elapsed_s)

    async def _serve(
        self, scope: Scope, receive: Receive, send: _Stamped, context: RequestContext
    ) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        context.on_end = task.cancel
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            log.info("the client disconnected while it was sending")
            context.status = 499
        except asyncio.CancelledError:
            if context.ended is None or (task.cancelling() and task.uncancel()):
                raise  # by the client, which is gone
        except DarkroomError as error:  # after the response has begun: before, it is the answer
            if context.ended is None:
                log.warning("the response breaks off: %s", error.message)
                await send.break_off(error)
        except Exception as error:
            if context.ended is None:
                await _answer_unexpected(error, scope, receive, send, context)
        if context.ended is not None:
            await send.end(scope, receive, context.ended)


async def _answer_unexpected(
    error: Exception, scope: Scope, receive: Receive, send: Send, context: RequestContext
) -> None:
    scope["app"].state.services.metrics.count_unexpected_error(context.route)
    log.error("unexpected error while serving %s", context.route, exc_info=error)
    context.error = DarkroomError.code
    if context.status:
        raise error  # the response has begun, so only a broken connection can show the error
    message = (
        f"Unexpected {type(error).__name__}. The server's log has the details under this "
        "request's id."
    )
    await context.render_error(DarkroomError(message))(scope, receive, send)


async def _closing(body: PacedBody | None) -> Sequence[tuple[bytes, bytes]]:
    """Headers that close the connection if the client has not sent its whole body."""
    return () if body is None or await body.end() else ((b"connection", b"close"),)


def _has_body(scope: Scope) -> bool:
    return any(name in _OF_BODIES for name, _ in scope["headers"])


def _is_traced(scope: Scope) -> bool:
    """Return whether a call has a span: submits and sessions have, polls are too many."""
    return scope["type"] == "websocket" or scope["method"] == "POST"


class _Stamped:
    """Adds to a response the headers that every response has. The connection is closed after one
    that came before the end of its call."""

    __slots__ = ("_allowances", "_body", "_context", "_head", "_over", "_send")

    def __init__(
        self, send: Send, context: RequestContext, allowances: Allowances, body: PacedBody | None
    ) -> None:
        self._send = send
        self._context = context
        self._allowances = allowances
        self._body = body
        self._head: Iterable[tuple[bytes, bytes]] = ()  # headers of the response
        self._over = False

    async def __call__(self, message: Message) -> None:
        if self._context.ended is not None:  # the handler goes on while it is cancelled
            raise asyncio.CancelledError
        if message["type"] == "http.response.start":
            self._head = message["headers"]
            self._context.status = message["status"]
            self._context.end_work()
            request_id = self._context.request_id.encode()
            # With its own id, fal's Python client would not repeat the call.
            names = _ID_HEADERS[:1] if self._context.transient else _ID_HEADERS
            ids = ((name, request_id) for name in names)
            headers = message["headers"] = [*message["headers"], *ids, *_CORS]
            if self._context.trace:
                headers += encoded_headers(self._context.trace)
            if (left := self._allowances.take(self._context.request_id)) is not None:
                pairs = allowance_headers(left).items()
                headers += [(name.encode(), value.encode()) for name, value in pairs]
            headers += await _closing(self._body)
        await self._send(message)
        self._over = message["type"] == "http.response.body" and not message.get("more_body")

    async def break_off(self, error: DarkroomError) -> None:
        """Break the connection, which every client notices. In a stream of events, the error is the
        last of them."""
        self._context.error = error.code
        if self._is_stream:
            await self._send_event(self._context.render_error(error))

    async def end(self, scope: Scope, receive: Receive, error: DarkroomError) -> None:
        """End a call whose access has ended: with the error, or as the last event of a stream. Any
        other response that has begun is cut off, which breaks the connection."""
        if self._over:
            return
        context = self._context
        context.ended, context.error = None, error.code
        refusal = context.render_error(error)
        if not context.status:
            await refusal(scope, receive, self)
        elif self._is_stream:
            await self._send_event(refusal)
            await self._send({"type": "http.response.body", "body": b""})

    @property
    def _is_stream(self) -> bool:
        headers = Headers(raw=[*self._head])
        return headers.get("content-type", "").startswith(sse.MEDIA_TYPE)

    async def _send_event(self, refusal: Response) -> None:
        event = sse.event(bytes(refusal.body), event="error")
        await self._send({"type": "http.response.body", "body": event, "more_body": True})


async def _preflight(
    scope: Scope, context: RequestContext, body: PacedBody | None, send: Send
) -> None:
    # Browsers do not apply `*` to Authorization, so the requested headers are named.
    requested = next(
        (v for k, v in scope["headers"] if k == b"access-control-request-headers"), b""
    )
    answered = [
        *_PREFLIGHT,
        (b"access-control-allow-headers", requested or _ALLOWED),
        (b"vary", b"access-control-request-headers"),
        (b"x-fal-request-id", context.request_id.encode()),
        *(await _closing(body)),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": answered})
    await send({"type": "http.response.body", "body": b""})
