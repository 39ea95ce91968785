"""Server of the official SDK, with our tools. It keeps no state between two calls."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    GetTaskRequestParams,
    ListToolsResult,
    PaginatedRequestParams,
)
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from serve_app.domain.errors import DarkroomError
from serve_app.ingress.http.errors import http_answer
from serve_app.ingress.mcp import content
from serve_app.ingress.mcp.calls import TASK_CALLS, ToolCall, ToolResult, call_of, call_tool
from serve_app.ingress.mcp.tasks import EXTENSION, require_tasks, takes_tasks
from serve_app.ingress.mcp.tools import (
    ARGUMENTS,
    INSTRUCTIONS,
    argument_error,
    checked_count,
    tools,
)
from serve_app.ingress.services.services import Services
from serve_app.telemetry.version import package_version

log = logging.getLogger(__name__)

NAME = "darkroom"
VERSION = package_version()  # at the import, which is in a thread: it reads files


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one HTTP call.

    It is stateless, so any ingress replica can answer any call. The manager is created for each
    call, because it holds no state that another call needs.
    """
    services: Services = scope["app"].state.services
    manager = StreamableHTTPSessionManager(
        _server(), stateless=True, max_request_body_size=services.config.limits.max_body_bytes
    )
    async with manager.run():
        await manager.handle_request(scope, receive, send)


@functools.cache
def _server() -> Server[dict[str, object]]:
    server = Server(
        NAME,
        version=VERSION,
        title="Darkroom",
        instructions=INSTRUCTIONS,
        on_list_tools=_list_tools,
    )
    # Not `on_call_tool`: a task is not one of the results that its type knows.
    server.add_request_handler("tools/call", CallToolRequestParams, _call_tool)
    for method, act in TASK_CALLS.items():
        server.add_request_handler(method, GetTaskRequestParams, functools.partial(_task_call, act))
    server.extensions[EXTENSION] = {}
    return server


async def _list_tools(
    context: ServerRequestContext[dict[str, object]],  # noqa: ARG001 the SDK's own
    params: PaginatedRequestParams | None,  # noqa: ARG001
) -> ListToolsResult:
    return ListToolsResult(tools=tools())


async def _call_tool(
    context: ServerRequestContext[dict[str, object]], params: CallToolRequestParams
) -> ToolResult:
    """Run a tool. Errors are returned as results with a sentence that the assistant can act on."""
    arguments = ARGUMENTS.get(params.name)
    if arguments is None:
        known = ", ".join(ARGUMENTS)
        raise MCPError(
            INVALID_PARAMS, f"There is no tool {params.name[:100]}. The tools are {known}."
        )
    http = context.request
    assert isinstance(http, HttpRequest)  # noqa: S101 true for the only transport in use
    try:
        validated = arguments.model_validate(checked_count(params.name, params.arguments or {}))
        progress = context.session.report_progress
        call = await call_of(http, progress, takes_tasks=takes_tasks(context))
        return await call_tool(call, params.name, validated)
    except ValidationError as error:
        return _mistake(argument_error(params.name, error))
    except DarkroomError as error:
        return _mistake(error)


async def _task_call(
    act: Callable[[ToolCall, str], Awaitable[dict[str, Any]]],
    context: ServerRequestContext[dict[str, object]],
    params: GetTaskRequestParams,
) -> dict[str, Any]:
    """Answer a call about a task. Its errors are those of the protocol: an assistant calls tools
    only, and its program polls the tasks."""
    require_tasks(context)
    http = context.request
    assert isinstance(http, HttpRequest)  # noqa: S101 true for the only transport in use
    try:
        return await act(await call_of(http, context.session.report_progress), params.task_id)
    except DarkroomError as error:
        of_caller = http_answer(error).status < 500
        raise MCPError(INVALID_PARAMS if of_caller else INTERNAL_ERROR, error.message) from None


def _mistake(error: DarkroomError) -> CallToolResult:
    facts = {"error": {"code": error.code, "message": error.message, "retryable": error.retryable}}
    return content.text_result(error.message, facts, error=True)
