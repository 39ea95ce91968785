"""Prompts: submit, list, cancel, and read what they made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NotRequired, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import InvalidInput, RequestNotFound
from serve_app.domain.ports import Queue
from serve_app.domain.request import Request, State
from serve_app.ingress.comfyui import nodes, prompt
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import AT_SUBMIT, ERRORS, TAG
from serve_app.ingress.comfyui.files import named_files
from serve_app.ingress.comfyui.prompt import HistoryEntry
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of
from serve_app.ingress.http.body import cost_of_json, parse_body, read_body, read_json
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Answer, Operation, answer, in_path, in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.options import SubmitOptions, parse_options
from serve_app.ingress.submission.protocol import validate_call
from serve_app.tenants.scopes import Caller

MAX_LISTED = 200
"""Most prompts that run, that wait, and that the history shows; and most ids in one call."""

FINALS = tuple(state for state in State if state.final)

SECRETS = frozenset({"api_key_comfy_org", "auth_token_comfy_org"})
"""Extra data that is never stored: credentials for services that nodes here do not call."""


class NewPrompt(TypedDict):
    """Workflow in ComfyUI's API format, and who hears of it."""

    prompt: dict[str, Any]
    client_id: NotRequired[str]
    prompt_id: NotRequired[str]
    extra_data: NotRequired[dict[str, Any]]


class QueuedPrompt(TypedDict):
    prompt_id: str
    number: int
    node_errors: dict[str, Any]


class ExecInfo(TypedDict):
    queue_remaining: int


class PromptCount(TypedDict):
    exec_info: ExecInfo


class PromptQueue(TypedDict):
    """Entries are lists: number, id, graph, extra data, nodes."""

    queue_running: list[Any]
    queue_pending: list[Any]


class QueueChange(TypedDict):
    clear: NotRequired[bool]
    delete: NotRequired[list[str]]


class Interruption(TypedDict):
    prompt_id: NotRequired[str]


async def create(request: HttpRequest) -> Response:
    """``POST /prompt``: queue a workflow."""
    caller = await caller_of(request)
    services = services_of(request)
    entry = endpoint_of(request, caller)
    arguments = read_prompt(await read_json(request, services.config.limits.max_body_bytes))
    options = parse_options(request, caller)
    if chosen := arguments.get("prompt_id"):
        key, digest = prompt.idempotency(chosen)
        options = replace(options, idempotency_key=key, repeat_digest=digest)
    stored = await submit_prompt(request, caller, entry, arguments, options)
    body: QueuedPrompt = {
        "prompt_id": prompt.prompt_id(stored),
        "number": prompt.number(stored),
        "node_errors": {},
    }
    return json_reply(body)


async def submit_prompt(
    request: HttpRequest,
    caller: Caller,
    entry: CatalogEntry,
    arguments: dict[str, Any],
    options: SubmitOptions,
) -> Request:
    """Store a prompt as a request. ``arguments``: of ``read_prompt``, and in ``files`` URLs of what
    its values name beside uploads. Raises as ``check_graph`` and every submit."""
    services = services_of(request)
    graph = arguments["prompt"]
    if (known := await services.comfyui.current()) is not None:
        await in_cpu_thread(nodes.check_graph, graph, known)
    named = await named_files(services, caller, origin_of(request), graph)
    arguments["files"] = {**named, **arguments.get("files", {})}
    new = await validate_call(request, caller, entry.endpoint.id, arguments, options)
    stored = await asyncio.shield(submission.submit(services, new))
    services.comfyui.arrivals.announce(caller.tenant)
    return stored


async def count(request: HttpRequest) -> Response:
    """``GET /prompt``: how many prompts of the tenant have not ended."""
    caller = await caller_of(request)
    waiting = await list_unfinished(request, caller, endpoint_of(request, caller))
    body: PromptCount = {"exec_info": {"queue_remaining": len(waiting)}}
    return json_reply(body)


async def list_queue(request: HttpRequest) -> Response:
    """``GET /queue``: prompts of the tenant that run, and that wait; the oldest first."""
    caller = await caller_of(request)
    entry = endpoint_of(request, caller)
    running = await list_unfinished(request, caller, entry, State.RUNNING)
    pending = await list_unfinished(request, caller, entry, State.QUEUED)
    body: PromptQueue = {
        "queue_running": [prompt.queue_entry(record) for record in running],
        "queue_pending": [prompt.queue_entry(record) for record in pending],
    }
    return json_reply(body)


async def cancel_queued(request: HttpRequest) -> Response:
    """``POST /queue``: cancel prompts that wait, some or all of the tenant's."""
    caller = await caller_of(request)
    entry = endpoint_of(request, caller)
    body = await json_object(request)
    prompt_ids = body.get("delete", [])
    if not isinstance(prompt_ids, list):
        raise InvalidInput.of_field("delete", "Input should be a list of ids", "list_type")
    queue = services_of(request).queue
    if body.get("clear"):
        async for item in _all(queue, caller, entry, State.QUEUED):
            await _cancel(request, caller, item)
    for item in cast("list[Any]", prompt_ids)[:MAX_LISTED]:
        record = await prompt.find(queue, caller.tenant, entry, str(item))
        if record is not None and record.state is State.QUEUED:
            await _cancel(request, caller, record)
    return Response()


async def interrupt(request: HttpRequest) -> Response:
    """``POST /interrupt``: cancel the prompt that the body names, or those of the tenant that run.

    A prompt that does not run is left alone, as by ComfyUI.
    """
    caller = await caller_of(request)
    entry = endpoint_of(request, caller)
    queue = services_of(request).queue
    prompt_id = (await json_object(request)).get("prompt_id")
    if prompt_id is None:
        async for running in _all(queue, caller, entry, State.RUNNING):
            await _cancel(request, caller, running)
    else:
        record = await prompt.find(queue, caller.tenant, entry, str(prompt_id))
        if record is not None and record.state is State.RUNNING:
            await _cancel(request, caller, record)
    return Response()


async def list_history(request: HttpRequest) -> Response:
    """``GET /history``: prompts of the tenant that have ended, the oldest first."""
    caller = await caller_of(request)
    entry = endpoint_of(request, caller)
    most = query.whole_number(request, "max_items", default=MAX_LISTED, most=MAX_LISTED)
    page = await services_of(request).queue.page(
        caller.tenant, states=FINALS, endpoints=(entry.endpoint.id,), limit=max(1, most)
    )
    return json_reply(
        {prompt.prompt_id(record): prompt.history(record) for record in reversed(page)}
    )


async def delete_history(request: HttpRequest) -> Response:
    """``POST /history``: delete prompts that have ended, with their files."""
    caller = await caller_of(request)
    entry, services = endpoint_of(request, caller), services_of(request)
    body = await json_object(request)
    prompt_ids = body.get("delete", [])
    if not isinstance(prompt_ids, list):
        raise InvalidInput.of_field("delete", "Input should be a list of ids", "list_type")
    if body.get("clear"):
        async for item in _all(services.queue, caller, entry, *FINALS):
            await _delete(request, caller, item)
    for item in cast("list[Any]", prompt_ids)[:MAX_LISTED]:
        record = await prompt.find(services.queue, caller.tenant, entry, str(item))
        if record is not None and record.state.final:
            await _delete(request, caller, record)
    return Response()


async def show(request: HttpRequest) -> Response:
    """``GET /history/{prompt_id}``: one prompt, or nothing if it has not ended or is not known."""
    caller = await caller_of(request)
    entry = endpoint_of(request, caller)
    prompt_id: str = request.path_params["prompt_id"]
    record = await prompt.find(services_of(request).queue, caller.tenant, entry, prompt_id)
    if record is None or not record.state.final:
        return json_reply({})
    return json_reply({prompt_id: prompt.history(record)})


COUNT = Operation(
    "comfyuiCountPrompts",
    "Count the tenant's prompts that have not ended",
    {200: answer("The number.", PromptCount)},
    errors=(404,),
    tag=TAG,
    error_format=ERRORS,
)
CREATE = Operation(
    "comfyuiQueuePrompt",
    "Queue a workflow",
    {200: answer("The request is stored.", QueuedPrompt)},
    errors=AT_SUBMIT,
    body=NewPrompt,
    tag=TAG,
    error_format=ERRORS,
)
LIST = Operation(
    "comfyuiListQueue",
    "List the tenant's prompts that run or wait",
    {200: answer("The queue.", PromptQueue)},
    errors=(404,),
    tag=TAG,
    error_format=ERRORS,
)
CHANGE = Operation(
    "comfyuiChangeQueue",
    "Cancel prompts that wait",
    {200: Answer("They will not run.")},
    errors=(400, 404, 413),
    body=QueueChange,
    tag=TAG,
    error_format=ERRORS,
)
INTERRUPT = replace(
    CHANGE,
    name="comfyuiInterrupt",
    summary="Cancel prompts that run: one, or all of the tenant",
    responses={200: Answer("They stop at their next step.")},
    body=Interruption,
)
FORGET = replace(
    CHANGE,
    name="comfyuiForgetHistory",
    summary="Delete prompts that have ended, with their files",
    responses={200: Answer("They are deleted.")},
)
HISTORY = Operation(
    "comfyuiListHistory",
    "List the tenant's prompts that have ended",
    {200: answer("Prompts by id.", dict[str, HistoryEntry])},
    errors=(400, 404),
    parameters=(in_query("max_items", f"Most prompts, at most {MAX_LISTED}.", int),),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = replace(
    HISTORY,
    name="comfyuiGetHistory",
    summary="Show a prompt that has ended",
    responses={200: answer("The prompt by its id; empty until then.", dict[str, HistoryEntry])},
    parameters=(in_path("prompt_id", "Id of the prompt."),),
)


async def list_unfinished(
    request: HttpRequest, caller: Caller, entry: CatalogEntry, *states: State
) -> Sequence[Request]:
    """Newest prompts of the tenant in these states, by default in both; the oldest of them first.

    They are ``MAX_LISTED`` at most.
    """
    page = await services_of(request).queue.page(
        caller.tenant,
        states=states or (State.QUEUED, State.RUNNING),
        endpoints=(entry.endpoint.id,),
        limit=MAX_LISTED,
    )
    return [*reversed(page)]


async def _all(
    queue: Queue, caller: Caller, entry: CatalogEntry, *states: State
) -> AsyncIterator[Request]:
    """All prompts of the tenant in these states, the newest first. Those that come meanwhile are
    not among them."""
    before: str | None = None
    while page := await queue.page(
        caller.tenant,
        states=states,
        endpoints=(entry.endpoint.id,),
        before=before,
        limit=MAX_LISTED,
    ):
        for request in page:
            yield request
        before = page[-1].id


async def _cancel(request: HttpRequest, caller: Caller, record: Request) -> None:
    with suppress(RequestNotFound):  # it was deleted by another call
        await services_of(request).queue.cancel(caller.tenant, record.id, actor_of(request))


async def _delete(request: HttpRequest, caller: Caller, record: Request) -> None:
    with suppress(RequestNotFound):  # it was deleted by another call
        await submission.delete(services_of(request), caller.tenant, record.id, actor_of(request))


async def json_object(request: HttpRequest) -> Mapping[str, Any]:
    """Body of a call; an empty one is an empty object."""
    limits = services_of(request).config.limits
    raw = await read_body(request, limits.max_body_bytes, cost_of_json)
    body = await parse_body(raw) if raw.strip() else {}
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object.")
    return cast("Mapping[str, Any]", body)


def read_prompt(body: Any) -> dict[str, Any]:
    """Input of the request for a body. ``InvalidInput`` names the node."""
    payload = cast("Mapping[str, Any]", body) if isinstance(body, dict) else {}
    graph = payload.get("prompt")
    if not isinstance(graph, dict) or not graph:
        raise InvalidInput.of_field("prompt", "No prompt provided", "no_prompt")
    for node, node_body in cast("dict[str, Any]", graph).items():
        fields = cast("Mapping[str, Any]", node_body) if isinstance(node_body, dict) else {}
        if not isinstance(fields.get("class_type"), str):
            message = "Cannot execute because a node is missing the class_type property"
            raise InvalidInput.of_field(f"prompt.{node}.class_type", message, "invalid_prompt")
        if not isinstance(fields.get("inputs"), dict):
            message = "Cannot execute because a node is missing the inputs property"
            raise InvalidInput.of_field(f"prompt.{node}.inputs", message, "invalid_prompt")
    arguments: dict[str, Any] = {"prompt": graph}
    for name in ("client_id", "prompt_id"):
        value = payload.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or len(value) > prompt.MAX_ID:
            message = f"Input should be a text of at most {prompt.MAX_ID} characters"
            raise InvalidInput.of_field(name, message, "string_type")
        arguments[name] = value
    extra = payload.get("extra_data")
    if isinstance(extra, dict) and extra:
        kept = cast("Mapping[str, Any]", extra).items()
        arguments["extra_data"] = {name: item for name, item in kept if name not in SECRETS}
    return arguments
