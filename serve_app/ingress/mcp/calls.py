"""Implementation of the tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_types import CallToolResult
from starlette.requests import Request as HttpRequest

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.media.image_size import in_shape_of_image
from serve_app.domain.request import CancelVerdict, Request
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import reject_unstorable
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.route_scopes import ANY_KEY
from serve_app.ingress.mcp import content, tasks
from serve_app.ingress.mcp.tools import (
    CANCEL,
    DESCRIBE_MODEL,
    GENERATE,
    GET_RESULT,
    LIST_MODELS,
    WAIT,
    Arguments,
    DescribeModel,
    Generate,
    ListModels,
    RequestArguments,
    Wait,
)
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.model_lookup import EndpointFields, find_endpoint, served_models
from serve_app.ingress.submission.options import parse_options
from serve_app.ingress.submission.protocol import find_request
from serve_app.tenants import scopes
from serve_app.tenants.scopes import Caller


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool: the caller, and the callback that reports progress."""

    http: HttpRequest
    caller: Caller
    report_progress: content.ReportProgress
    takes_tasks: bool = False  # of its client

    @property
    def services(self) -> Services:
        return services_of(self.http)


ToolResult = CallToolResult | dict[str, Any]
"""Result of a tool. A dictionary is a task, see ``tasks.py``."""


async def call_of(
    http: HttpRequest, report_progress: content.ReportProgress, *, takes_tasks: bool = False
) -> ToolCall:
    return ToolCall(http, await authenticate(http, ANY_KEY), report_progress, takes_tasks)


async def list_models(call: ToolCall, arguments: ListModels) -> CallToolResult:
    models = [
        _summary(entry)
        for entry in served_models(call.services, call.caller)
        if entry.endpoint.has_words(arguments.query)
    ]
    sentence = "\n".join(
        f"{model['model']}: {model['description']} ({model['category']})" for model in models
    )
    return content.text_result(sentence or "No model matches the query.", {"models": models})


async def describe_model(call: ToolCall, arguments: DescribeModel) -> CallToolResult:
    entry = find_endpoint(call.services, call.caller, arguments.model)
    call.caller.require_endpoint(entry.endpoint.id)
    facts = await in_cpu_thread(_describe_model, entry)
    return content.text_result(json.dumps(facts, ensure_ascii=False), facts)


async def generate(call: ToolCall, arguments: Generate) -> ToolResult:
    """Run a model.

    If the call is cancelled while it waits, or its end cannot be read, the request is cancelled
    too, because no one knows its id. A request with an idempotency key continues.
    """
    services = call.services
    origin = origin_of(call.http)  # may be refused, so read it before anything is stored
    entry = find_endpoint(services, call.caller, arguments.model)
    reject_unstorable(arguments.input, ("body", "input"))
    new = await submission.validate(
        services,
        call.caller,
        entry.endpoint.id,
        in_shape_of_image(arguments.input, EndpointFields(entry).named),
        parse_options(call.http, call.caller),
        request_id=services.new_id(),
    )
    storing = submission.submit(services, new)
    try:
        stored = await asyncio.shield(storing)
        stored = await content.wait_until_end(
            services, stored, arguments.wait_s, call.report_progress
        )
    except (asyncio.CancelledError, DatabaseUnavailable):
        submission.abandon(services, new, storing)
        raise
    return await _result_or_task(call, stored, origin)


async def wait(call: ToolCall, arguments: Wait) -> ToolResult:
    request = await _find(call, arguments.request_id)
    request = await content.wait_until_end(
        call.services, request, arguments.wait_s, call.report_progress
    )
    return await _result_or_task(call, request, origin_of(call.http))


async def get_result(call: ToolCall, arguments: RequestArguments) -> CallToolResult:
    request = await _find(call, arguments.request_id)
    return await _result(call.services, request, origin_of(call.http))


CANCELS: Mapping[CancelVerdict, str] = {
    CancelVerdict.CANCELLED: "The request is cancelled and will not start.",
    CancelVerdict.REQUESTED: "The request stops at its next step.",
    CancelVerdict.ALREADY_FINAL: "The request had already ended.",
}


async def cancel(call: ToolCall, arguments: RequestArguments) -> CallToolResult:
    request = await _find(call, arguments.request_id)
    verdict = await call.services.queue.cancel(request.tenant, request.id, actor_of(call.http))
    return content.text_result(
        CANCELS[verdict], {"request_id": request.id, "verdict": verdict.value}
    )


CALLS: Mapping[str, Callable[[ToolCall, Any], Awaitable[ToolResult]]] = {
    LIST_MODELS: list_models,
    DESCRIBE_MODEL: describe_model,
    GENERATE: generate,
    WAIT: wait,
    CANCEL: cancel,
    GET_RESULT: get_result,
}


SCOPES: Mapping[str, str] = {
    GENERATE: scopes.SUBMIT,
    WAIT: scopes.READ,
    GET_RESULT: scopes.READ,
    CANCEL: scopes.CANCEL,
}
"""Scopes of the tools. The others need any key."""


async def call_tool(call: ToolCall, name: str, arguments: Arguments) -> ToolResult:
    if name in SCOPES:
        call.caller.require(SCOPES[name])
    return await CALLS[name](call, arguments)


async def get_task(call: ToolCall, task_id: str) -> dict[str, Any]:
    call.caller.require(scopes.READ)
    request = await _find(call, task_id, "task")
    return await tasks.detailed_task(call.services, request, origin_of(call.http))


async def update_task(call: ToolCall, task_id: str) -> dict[str, Any]:
    """Acknowledge answers to questions. No task has asked any, so there is nothing to do."""
    call.caller.require(scopes.READ)
    await _find(call, task_id, "task")
    return {}


async def cancel_task(call: ToolCall, task_id: str) -> dict[str, Any]:
    call.caller.require(scopes.CANCEL)
    request = await _find(call, task_id, "task")
    await call.services.queue.cancel(request.tenant, request.id, actor_of(call.http))
    return {}


TASK_CALLS: Mapping[str, Callable[[ToolCall, str], Awaitable[dict[str, Any]]]] = {
    "tasks/get": get_task,
    "tasks/update": update_task,
    "tasks/cancel": cancel_task,
}
"""Methods of the extension, by name. They take the id of a task."""


async def _find(call: ToolCall, request_id: str, kind: str = "request") -> Request:
    what = f"{kind} {request_id[:64]}"
    request = await find_request(call.services.queue, call.caller.tenant, request_id, what)
    call.caller.require_endpoint(request.endpoint)
    return request


async def _result_or_task(call: ToolCall, request: Request, origin: str) -> ToolResult:
    """Result of a tool that has waited for the request."""
    if call.takes_tasks and not request.state.final:
        return await tasks.created_task(call.services, request)
    return await _result(call.services, request, origin)


async def _result(services: Services, request: Request, origin: str) -> CallToolResult:
    if not request.state.final:
        return content.interim_result(
            request, await content.describe_state(services.queue, request)
        )
    return await content.final_result(services.files, request, origin)


def _summary(entry: CatalogEntry) -> dict[str, Any]:
    endpoint = entry.endpoint
    return {
        "model": endpoint.id,
        "name": endpoint.display_name or endpoint.id,
        "description": endpoint.description,
        "category": endpoint.category,
        "licence": endpoint.licence,
        "demo": entry.demo,
    }


def _describe_model(entry: CatalogEntry) -> dict[str, Any]:
    """Facts about a model. It takes milliseconds, so call it in a thread."""
    return {
        **_summary(entry),
        "input_schema": entry.schema.json_schema(),
        "output_schema": entry.schema.output_schema(),
    }
