"""The server of the official SDK, with our tools. It keeps nothing between two calls."""

from __future__ import annotations

import functools
import logging

from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from serve_app.catalog.problems import invalid_input
from serve_app.domain.errors import DarkroomError
from serve_app.ingress.core import Core
from serve_app.ingress.mcp import content
from serve_app.ingress.mcp.calls import call_of, called
from serve_app.ingress.mcp.tools import ARGUMENTS, INSTRUCTIONS, tools

log = logging.getLogger(__name__)

NAME = "darkroom"


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """One HTTP call. Stateless, so that any ingress replica answers any call; the manager is made
    for the call, since it holds nothing that another one would need."""
    core: Core = scope["app"].state.core
    manager = StreamableHTTPSessionManager(
        _server(), stateless=True, max_request_body_size=core.config.max_body_bytes
    )
    async with manager.run():
        await manager.handle_request(scope, receive, send)


@functools.cache
def _server() -> Server[dict[str, object]]:
    return Server(
        NAME,
        title="Darkroom",
        instructions=INSTRUCTIONS,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,
    )


async def _list_tools(
    context: ServerRequestContext[dict[str, object]],  # noqa: ARG001 the SDK's own
    params: PaginatedRequestParams | None,  # noqa: ARG001
) -> ListToolsResult:
    return ListToolsResult(tools=tools())


async def _call_tool(
    context: ServerRequestContext[dict[str, object]], params: CallToolRequestParams
) -> CallToolResult:
    """Mistakes are results that say so, in a sentence: an assistant reads them and tries again."""
    arguments = ARGUMENTS.get(params.name)
    if arguments is None:
        known = ", ".join(ARGUMENTS)
        raise MCPError(INVALID_PARAMS, f"There is no tool {params.name[:100]}; there are {known}.")
    http = context.request
    assert isinstance(http, HttpRequest)  # noqa: S101 by the only transport that there is
    try:
        given = arguments.model_validate(params.arguments or {})
        call = await call_of(http, context.session.report_progress)
        return await called(call, params.name, given)
    except ValidationError as error:
        return _mistake(invalid_input(error))
    except DarkroomError as error:
        return _mistake(error)


def _mistake(error: DarkroomError) -> CallToolResult:
    facts = {"error": {"code": error.code, "message": error.message, "retryable": error.retryable}}
    return content.told(error.message, facts, error=True)
