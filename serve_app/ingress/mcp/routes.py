"""``/mcp``: Model Context Protocol over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal, NotRequired

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import TypedDict

from serve_app.domain.errors import DarkroomError, MethodNotAllowed, Unauthenticated
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import cost_of_json, read_body
from serve_app.ingress.http.errors import error_reply, json_reply
from serve_app.ingress.http.openapi import EVENTS, JSON, Answer, Operation, answer
from serve_app.ingress.http.paths import MCP_PATH
from serve_app.ingress.http.route_scopes import ANY_KEY, BY_CALL, NO_KEY, ScopedRoute
from serve_app.ingress.http.routing import build_route
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of

INVALID_REQUEST = -32_600  # in JSON-RPC


class ServedBySdk(Response):
    """Response that the SDK writes.

    ``content``: the body of the call, which was read before. The SDK would answer a client that is
    too slow, or that disconnects, with 500.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = await in_cpu_thread(_server)
        await server.serve(scope, _begin_with(self._content, receive), send)


def _begin_with(content: bytes, receive: Receive) -> Receive:
    """``receive`` of a call whose body was read: the body at once, then what follows it."""
    unread = [content]

    async def next_message() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return next_message


async def call(request: HttpRequest) -> Response:
    """Answer any call. The key in the header is checked here, before the SDK reads the body.

    There are no streams apart from the responses of calls, and no sessions to end. Clients that ask
    for either get 405.
    """
    if request.method != "POST":
        raise MethodNotAllowed.of_call(request.method, ["POST"])
    await authenticate(request, ANY_KEY)
    if not request.headers.get("content-type", "").lower().startswith(JSON):
        return _not_json()  # the SDK's answer is plain text
    limits = services_of(request).config.limits
    return ServedBySdk(await read_body(request, limits.max_body_bytes, cost_of_json))


def _not_json() -> Response:
    message = f"The header Content-Type should be {JSON}."
    error: McpError = {"jsonrpc": "2.0", "error": {"code": INVALID_REQUEST, "message": message}}
    return json_reply(error, 400)


def _server() -> ModuleType:
    """Import the SDK at the first call: it takes a second, which would delay the start of every
    installation, also without assistants."""
    from serve_app.ingress.mcp import server  # noqa: PLC0415

    return server


def error_response(error: DarkroomError) -> Response:
    """Error response. Clients of this protocol send the key as a bearer token."""
    reply = error_reply(error)
    if isinstance(error, Unauthenticated):
        reply.headers["www-authenticate"] = "Bearer"
    return reply


class McpMessage(TypedDict):
    """Message of the protocol."""

    jsonrpc: str
    method: str
    params: NotRequired[dict[str, Any]]


class McpErrorDetails(TypedDict):
    code: int
    message: str


class McpError(TypedDict):
    """Answer to something that is no message of the protocol."""

    jsonrpc: Literal["2.0"]
    id: NotRequired[str | int | None]
    error: McpErrorDetails


TAG = "mcp"

CALL = Operation(
    "callMcp",
    "Send one message of the Model Context Protocol (streamable HTTP, stateless)",
    {
        200: Answer("The answer, or events that end with it.", {JSON: dict[str, Any], EVENTS: str}),
        202: Answer("The notification was received."),
        400: answer("Not a message of the protocol.", McpError),
    },
    errors=(413,),
    body=McpMessage,
    tag=TAG,
)
STREAM = Operation(
    "streamMcp", "Refused, because there are no sessions", {}, errors=(405,), tag=TAG
)
END = Operation("endMcp", "Refused, because there are no sessions", {}, errors=(405,), tag=TAG)


def _route(operations: Mapping[str, Operation], scope: str) -> ScopedRoute:
    return build_route(
        MCP_PATH,
        call,
        *operations,
        label="mcp",
        refusal=error_response,
        scope=scope,
        operations=operations,
    )


ROUTES = [_route({"POST": CALL}, BY_CALL), _route({"GET": STREAM, "DELETE": END}, NO_KEY)]
