"""What each tool does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_types import CallToolResult
from starlette.requests import Request as HttpRequest

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import RequestNotFound
from serve_app.domain.request import CancelVerdict, Request
from serve_app.ingress import ids, submission
from serve_app.ingress.acceptance import accepted
from serve_app.ingress.body import refuse_unstorable
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.mcp import content, waiting
from serve_app.ingress.mcp.arguments import (
    Arguments,
    DescribeModel,
    Generate,
    ListModels,
    OneRequest,
    Wait,
)
from serve_app.ingress.mcp.tools import (
    CANCEL,
    DESCRIBE_MODEL,
    GENERATE,
    GET_RESULT,
    LIST_MODELS,
    WAIT,
)
from serve_app.ingress.model_names import named
from serve_app.ingress.origin import origin_of
from serve_app.tenants.keys import Identity


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool: whose, and whom to tell about progress."""

    http: HttpRequest
    caller: Identity
    tell: waiting.Tell

    @property
    def core(self) -> Core:
        return core_of(self.http)


async def call_of(http: HttpRequest, tell: waiting.Tell) -> Call:
    return Call(http, await caller_of(http), tell)


async def list_models(call: Call, given: ListModels) -> CallToolResult:
    words = given.query.lower().split()
    found = [
        _summary(each)
        for each in call.core.catalog
        if not each.missing and all(word in _text(each) for word in words)
    ]
    sentence = "\n".join(
        f"{one['model']}: {one['description']} ({one['category']})" for one in found
    )
    return content.told(sentence or "No model here fits.", {"models": found})


async def describe_model(call: Call, given: DescribeModel) -> CallToolResult:
    entry = named(call.core.catalog, call.core.config.model_aliases, given.model)
    facts = await asyncio.to_thread(_described, entry)
    return content.told(json.dumps(facts, ensure_ascii=False), facts)


async def generate(call: Call, given: Generate) -> CallToolResult:
    """When the call is cancelled while it waits, so is the request, unless it has an idempotency
    key: nobody was told its id."""
    core = call.core
    origin = origin_of(call.http)  # may be refused, and then nothing is to be stored
    entry = named(core.catalog, core.config.model_aliases, given.model)
    refuse_unstorable(given.input, ("body", "input"))
    new = await accepted(
        call.http, core, call.caller, entry.endpoint.id, given.input, request_id=core.new_id()
    )
    storing = submission.submit(core, new)
    try:
        stored = await asyncio.shield(storing)
        stored = await waiting.until_ended(core, stored, given.wait_s, call.tell)
    except asyncio.CancelledError:
        submission.abandon(core, new, storing)
        raise
    return await _result(core, stored, origin)


async def wait(call: Call, given: Wait) -> CallToolResult:
    found = await _find(call, given.request_id)
    found = await waiting.until_ended(call.core, found, given.wait_s, call.tell)
    return await _result(call.core, found, origin_of(call.http))


async def get_result(call: Call, given: OneRequest) -> CallToolResult:
    found = await _find(call, given.request_id)
    return await _result(call.core, found, origin_of(call.http))


CANCELS: Mapping[CancelVerdict, str] = {
    CancelVerdict.CANCELLED: "It is cancelled and will not start.",
    CancelVerdict.REQUESTED: "It stops at its next step.",
    CancelVerdict.ALREADY_FINAL: "It had ended already.",
}


async def cancel(call: Call, given: OneRequest) -> CallToolResult:
    found = await _find(call, given.request_id)
    verdict = await call.core.queue.cancel(found.tenant, found.id)
    return content.told(CANCELS[verdict], {"request_id": found.id, "verdict": verdict.value})


CALLS: Mapping[str, Callable[[Call, Any], Awaitable[CallToolResult]]] = {
    LIST_MODELS: list_models,
    DESCRIBE_MODEL: describe_model,
    GENERATE: generate,
    WAIT: wait,
    CANCEL: cancel,
    GET_RESULT: get_result,
}


async def called(call: Call, name: str, given: Arguments) -> CallToolResult:
    return await CALLS[name](call, given)


async def _find(call: Call, request_id: str) -> Request:
    unknown = RequestNotFound(f"There is no request {request_id[:64]}.")
    if not ids.valid(request_id):
        raise unknown
    try:
        return await call.core.queue.get(call.caller.tenant, request_id)
    except RequestNotFound:
        raise unknown from None


async def _result(core: Core, request: Request, origin: str) -> CallToolResult:
    if not request.state.final:
        return content.standing(request, await waiting.standing(core, request))
    return await content.ended(core, request, origin)


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


def _described(entry: CatalogEntry) -> dict[str, Any]:
    """Takes milliseconds: not on the event loop."""
    return {
        **_summary(entry),
        "input_schema": entry.schema.json_schema(),
        "output_schema": entry.schema.output_schema(),
    }


def _text(entry: CatalogEntry) -> str:
    each = entry.endpoint
    return " ".join((each.id, each.display_name, each.description, each.category)).lower()
