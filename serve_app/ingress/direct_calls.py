"""Calls that go from the HTTP server of an ingress process straight to the application.

Serve wraps each call in two tasks, a queue of its messages, a second routing and metrics of its
own: a fifth of the CPU time of an ingress process (measured, docs/adr/0013). Serve's setting for
middleware names ``middleware``, which places ``DirectCalls`` before all of that. Serve still starts
the server, tells HAProxy where it is, answers its health checks, and drains it before it stops.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.ingress.http.context import wait_disconnected

SETTING = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Environment variable of Serve that names a function without arguments, which returns middleware
for the HTTP server of its process."""

OF_SERVE = ("/-/healthz", "/-/routes")
"""Paths that Serve answers itself."""

ASGI = {"version": "3.0", "spec_version": "2.4"}
"""Version of ASGI of a call that is cancelled when its client disconnects. Below 2.4, Starlette
starts two tasks for each streamed response to learn of it, which take 0.2 ms of CPU."""

WATCH_AFTER_S = 0.25
"""Age of a call from which on the connection of its client is watched. Most calls are answered
sooner, and need no task for it."""


@dataclass(frozen=True, slots=True)
class _Target:
    application: ASGIApp
    loop: asyncio.AbstractEventLoop


_target: _Target | None = None


def register(application: ASGIApp, loop: asyncio.AbstractEventLoop) -> None:
    """Send the calls of this process to ``application``, which lives on ``loop``. Without
    ``RAY_SERVE_THROUGHPUT_OPTIMIZED`` the HTTP server is on another loop, and calls stay with
    Serve."""
    global _target  # noqa: PLW0603 Serve passes nothing to `middleware`
    _target = _Target(application, loop)


def middleware() -> list[Middleware]:
    """The value of ``SETTING`` names this function."""
    return [Middleware(DirectCalls)]


class DirectCalls:
    """ASGI middleware around Serve's wrapper that leaves it out where it can.

    ``serve``: the wrapper. It answers its own paths, and all calls until the route prefix is known
    from one of them.
    """

    def __init__(self, serve: ASGIApp) -> None:
        self._serve = serve
        self._root_path: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        application = self._application(scope)
        if application is None:
            await self._serve(scope, receive, send)
            self._root_path = scope.get("root_path", "")  # which Serve has set
            return
        scope["root_path"] = self._root_path
        if scope["type"] == "websocket":  # its handler reads until the client disconnects
            await application(scope, receive, send)
            return
        scope["asgi"] = ASGI
        watch = _DisconnectWatch(receive, body_ended=scope["method"] in ("GET", "HEAD"))
        try:
            await application(scope, watch.receive, send)
        except asyncio.CancelledError:
            if not watch.disconnected:
                raise
        finally:
            watch.close()

    def _application(self, scope: Scope) -> ASGIApp | None:
        """The application, unless Serve is to answer the call."""
        target, root_path = _target, self._root_path
        if target is None or root_path is None:
            return None
        path: str = scope["path"]
        if path.endswith(OF_SERVE) or not path.startswith(root_path):
            return None
        return target.application if target.loop is asyncio.get_running_loop() else None


class _DisconnectWatch:
    """Cancels the task that creates it when the client disconnects, as Serve does. It looks only
    after the body has been read, since a message can be received once."""

    __slots__ = ("_body_ended", "_loop", "_receive", "_task", "_timer", "_watching", "disconnected")

    def __init__(self, receive: Receive, *, body_ended: bool) -> None:
        self._receive = receive
        self._body_ended = body_ended
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._begin)
        self._watching: asyncio.Task[None] | None = None
        self.disconnected = False

    async def receive(self) -> Message:
        """The next message of the call."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._body_ended = True
        return message

    def close(self) -> None:
        """Stop watching: the call has ended. Leaves no reference cycle behind."""
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        self._task = self._watching = None

    def _begin(self) -> None:
        if self._body_ended:
            self._watching = self._loop.create_task(self._watch())
        else:
            self._timer = self._loop.call_later(WATCH_AFTER_S, self._begin)

    async def _watch(self) -> None:
        await wait_disconnected(self._receive)
        if self._task is not None and not self._task.done():
            self.disconnected = True
            self._task.cancel()
