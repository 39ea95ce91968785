"""Tasks: requests that outlast the call of a tool, for clients that poll.

This is the extension ``io.modelcontextprotocol/tasks`` of revision 2026-07-28 (SEP-2663). The id of
a task is the id of its request, so nothing is stored for it, and any ingress replica can answer.
"""

from __future__ import annotations

from typing import Any

from mcp.server import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from serve_app.domain.request import Request, State
from serve_app.ingress.mcp import content
from serve_app.ingress.services.services import Services

EXTENSION = "io.modelcontextprotocol/tasks"
POLL_INTERVAL_MS = 2000

Context = ServerRequestContext[dict[str, object]]


def takes_tasks(context: Context) -> bool:
    """True if the client of this call can be answered with a task."""
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    capabilities = context.session.client_capabilities
    return capabilities is not None and EXTENSION in (capabilities.extensions or {})


def require_tasks(context: Context) -> None:
    """Raise ``MCPError``, as the extension says, if the client does not take tasks."""
    if takes_tasks(context):
        return
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(METHOD_NOT_FOUND, "Method not found", context.method)
    needed = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    message = f"{context.method} is for clients that declare the extension {EXTENSION}."
    raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, message, needed)


async def created_task(services: Services, request: Request) -> dict[str, Any]:
    """Result of a tool whose request has not ended."""
    return {"resultType": "task", **_task(request, "working", await _state(services, request))}


async def detailed_task(services: Services, request: Request, origin: str) -> dict[str, Any]:
    """Task at this moment; with the tool's result, if it has ended. ``OutcomeForgotten``."""
    if not request.state.final:
        return _task(request, "working", await _state(services, request))
    if request.state is State.CANCELLED:
        failure = request.outcome.failure if request.outcome else None
        return _task(request, "cancelled", failure.message if failure else "Cancelled.")
    result = await content.final_result(services.files, request, origin)
    return {
        **_task(request, "completed", request.state.value),
        "result": result.model_dump(by_alias=True, mode="json", exclude_none=True),
    }


async def _state(services: Services, request: Request) -> str:
    return await content.describe_state(services.queue, request)


def _task(request: Request, status: str, message: str) -> dict[str, Any]:
    updated = request.finished_at or request.started_at or request.created_at
    return {
        "taskId": request.id,
        "status": status,
        "statusMessage": message,
        "createdAt": request.created_at.isoformat(),
        "lastUpdatedAt": updated.isoformat(),
        "ttlMs": None,  # as long as the tenant keeps the request
        "pollIntervalMs": POLL_INTERVAL_MS,
    }
