"""``/mcp``: the Model Context Protocol over HTTP."""

from __future__ import annotations

import asyncio
from types import ModuleType

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serve_app.domain.errors import DarkroomError, Unauthenticated
from serve_app.ingress.caller import caller_of
from serve_app.ingress.reply import error_reply, json_reply
from serve_app.ingress.translated import translated

PATH = "/mcp"


class ServedBySdk(Response):
    """An answer that the SDK gives."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = await asyncio.to_thread(_server)
        await server.serve(scope, receive, send)


async def call(request: HttpRequest) -> Response:
    """Any call. The key is checked here, by its header, before the SDK reads the body.

    There is no stream beside those of the calls, and no session to end: clients that look for one
    learn it by 405.
    """
    if request.method != "POST":
        message = f"This path takes POST, not {request.method}."
        return json_reply({"detail": message, "message": message}, 405, {"allow": "POST"})
    await caller_of(request)
    return ServedBySdk()


def _server() -> ModuleType:
    """Imported by the first call: the SDK takes a second, which an installation without assistants
    should not pay at its start."""
    from serve_app.ingress.mcp import server  # noqa: PLC0415

    return server


def refused(error: DarkroomError) -> Response:
    """A key is a bearer token to clients of this protocol."""
    reply = error_reply(error)
    if isinstance(error, Unauthenticated):
        reply.headers["www-authenticate"] = "Bearer"
    return reply


ROUTES: list[Route] = [
    translated(PATH, call, "POST", "GET", "DELETE", label="mcp", refusal=refused)
]
