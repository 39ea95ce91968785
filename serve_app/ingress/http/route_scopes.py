"""Scopes that calls need. Each route has one, so that the process does not start with a route
without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from serve_app.domain.errors import DarkroomError
from serve_app.tenants.scopes import SINGLE

Refusal = Callable[[DarkroomError], Response]

NO_KEY = "no key"
"""Anyone may call: the call checks another credential, or needs none."""
ANY_KEY = "any key"
"""Every valid key may call."""
BY_CALL = "by call"
"""One route has several calls; the handler names the scope of each."""

OF_OWN_RIGHTS = frozenset(
    {"/v1/keys", "/v1/keys/{key}", "/v1/keys/{key}/rotate", "/v1/sign-in/links"}
)
"""Calls of tenant-admins about keys with no more rights than the caller's. All other calls of
tenant-admins are about what all endpoints share, which a key for some of them may not."""


class ScopedRoute(Route):
    """Route whose calls need a scope, or one of the words above."""

    def __init__(
        self,
        path: str,
        handler: Callable[[HttpRequest], Awaitable[Response]],
        *,
        methods: Sequence[str],
        scope: str,
    ) -> None:
        super().__init__(path, handler, methods=list(methods))
        self.app = _answering(handler)
        self.scope = _check_scope(scope)
        self.refusal: Refusal | None = None  # renders errors of its protocol; None: of fal's


class ScopedSocketRoute(WebSocketRoute):
    """The same for a WebSocket."""

    def __init__(
        self, path: str, handler: Callable[[WebSocket], Awaitable[None]], *, scope: str
    ) -> None:
        super().__init__(path, handler)
        self.scope = _check_scope(scope)


def _answering(handler: Callable[[HttpRequest], Awaitable[Response]]) -> ASGIApp:
    """ASGI application that sends the handler's response. Starlette's own looks for handlers of
    errors around each call and each message, and ``Refusals`` is the only one."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await handler(HttpRequest(scope, receive, send))
        await response(scope, receive, send)

    return app


def _check_scope(scope: str) -> str:
    if scope not in {NO_KEY, ANY_KEY, BY_CALL, *SINGLE}:
        raise ValueError(f"There is no scope {scope}.")
    return scope
