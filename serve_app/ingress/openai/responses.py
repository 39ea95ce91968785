"""Calls ``responses``, for images only: a response is a request, and its output are the images."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.artifact import Artifact
from serve_app.domain.endpoint import DEFAULT_IMAGE_MODEL
from serve_app.domain.errors import EndpointNotFound, InvalidInput
from serve_app.domain.outcome import Failure
from serve_app.domain.progress import Preview
from serve_app.domain.request import Request, State
from serve_app.ingress.http import query, sse
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import read_json
from serve_app.ingress.http.context import name_request
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import EVENTS, JSON, Answer, Operation, answer, in_path
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.openai import images
from serve_app.ingress.openai.errors import AT_END, AT_SUBMIT, ERRORS, TAG
from serve_app.ingress.openai.image_parameters import format_of, images_of, is_image, names_of
from serve_app.ingress.openai.image_stream import NO_TOKENS, stream
from serve_app.ingress.openai.lookup import find_maker
from serve_app.ingress.openai.response_parameters import (
    CALL,
    IMAGE_CALL,
    RESPONSE,
    TOOL,
    ResponseParameters,
    Turn,
    turn_of,
)
from serve_app.ingress.openai.runs import run, validate_request, with_endpoint
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.model_lookup import find_endpoint
from serve_app.ingress.submission.protocol import cancel, require_ended
from serve_app.ingress.submission.rendering import (
    ENDPOINT,
    NO_OUTCOME,
    base64_of,
    final_outcome,
    outcome_headers,
)
from serve_app.tenants.scopes import Caller

ResponseStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed"]

STATUSES: Mapping[State, ResponseStatus] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "failed",
}

USAGE: Mapping[str, Any] = {
    **NO_TOKENS,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


class OpenAiImageCall(TypedDict):
    """Image of a response."""

    id: str
    type: Literal["image_generation_call"]
    status: ItemStatus
    result: str | None
    output_format: str | None
    size: str | None
    revised_prompt: str | None


class OpenAiResponseError(TypedDict):
    code: Literal["server_error", "invalid_prompt"]
    message: str


class OpenAiResponse(TypedDict):
    """Request for images."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    model: str
    output: list[OpenAiImageCall]
    error: OpenAiResponseError | None
    incomplete_details: None
    instructions: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    tool_choice: str
    tools: list[dict[str, str]]
    usage: dict[str, Any]


class DeletedResponse(TypedDict):
    id: str
    object: Literal["response"]
    deleted: bool


async def create(request: HttpRequest) -> Response:
    """Make an image from the last turn of a conversation."""
    caller = await authenticate(request)
    services = services_of(request)
    origin = origin_of(request)  # may be refused, so read it before anything is stored
    body = await read_json(request, services.config.limits.max_body_bytes)
    parameters = ResponseParameters.read(body)
    tool, turn = parameters.tool(), turn_of(parameters.input)
    urls = await _images_of(request, caller, parameters, turn, origin)
    model = _model(services, caller, tool.pop("model", None), parameters.model)
    own: dict[str, Any] = {"prompt": turn.prompt, "model": model, "stream": parameters.stream}
    shown = {"image": urls} if urls else {}
    call = images.json_call(services, caller, {**tool, **own, **shown}, edits=bool(urls))
    names = {**names_of(call.parameters), "prompt": "input"}
    entry = images.drawing(call.entry)
    arguments = call.image_request.input
    new = await validate_request(
        request, caller, entry.endpoint.id, arguments, names, model=model, sent=body
    )
    previous = parameters.previous_response_id
    if parameters.stream:
        events = _Events(services, previous)
        return await stream(request, new, events, call.image_request.partial_images)
    if parameters.background:
        stored = await asyncio.shield(submission.submit(services, new))
        reply = json_reply(_response(stored, [], previous))
        return with_endpoint(request, reply, new, stored)

    async def reply_with(ended: Request) -> Response:
        items = await _items(services, ended)
        return json_reply(_response(ended, items, previous), headers=outcome_headers(ended))

    return await run(request, new, names, reply_with)


async def show(request: HttpRequest) -> Response:
    """Show a response. Its images are there once it is completed."""
    if query.yes_no(request, "stream", default=False):
        what = "is not supported here: only the call that creates a response has a stream"
        raise query.invalid("stream", what, "true")
    return await _reply(request, await _of_path(request))


async def cancel_response(request: HttpRequest) -> Response:
    """Cancel a response. One that has ended stays as it is."""
    return await _reply(request, await cancel(request, await _of_path(request)))


async def delete(request: HttpRequest) -> Response:
    """Delete a response with its images. ``RequestActive``: it has not ended."""
    record = await _of_path(request)
    await submission.delete(services_of(request), record.tenant, record.id, actor_of(request))
    body: DeletedResponse = {"id": f"{RESPONSE}{record.id}", "object": "response", "deleted": True}
    return json_reply(body)


async def _reply(request: HttpRequest, record: Request) -> Response:
    items: Sequence[OpenAiImageCall] = ()
    if record.state is State.SUCCEEDED:
        items = await _items(services_of(request), record)
    headers = outcome_headers(record) | {ENDPOINT: record.runs_at}
    return json_reply(_response(record, items, None), headers=headers)


def _model(services: Services, caller: Caller, of_tool: Any, outer: str | None) -> str:
    """Name of the model for the images. Clients name a text model in ``model``, which is not here:
    then it is the default one."""
    if of_tool is not None:
        return str(of_tool)
    try:
        return outer if outer and find_endpoint(services, caller, outer) else DEFAULT_IMAGE_MODEL
    except EndpointNotFound:
        return DEFAULT_IMAGE_MODEL


async def _images_of(
    request: HttpRequest, caller: Caller, parameters: ResponseParameters, turn: Turn, origin: str
) -> list[str]:
    """URLs of the images to edit: that of the answer before this turn, and those of the turn."""
    if parameters.action == "generate":
        return []
    urls: list[str] = []
    if turn.answer:
        earlier = turn.answer.removeprefix(IMAGE_CALL)
        urls.append(await _earlier_image(request, caller, earlier, "input", origin))
    elif parameters.previous_response_id:
        earlier, place = (
            parameters.previous_response_id.removeprefix(RESPONSE),
            "previous_response_id",
        )
        urls.append(await _earlier_image(request, caller, earlier, place, origin))
    urls += turn.images
    if parameters.action == "edit" and not urls:
        raise InvalidInput.of_field("tools.0.action", "There is no image to edit")
    return urls


async def _earlier_image(
    request: HttpRequest, caller: Caller, image_id: str, place: str, origin: str
) -> str:
    """URL of an image of an earlier response. ``image_id``: id of its request, and the number of an
    image that is not the first. ``InvalidInput`` names ``place`` if there is no such image."""
    services = services_of(request)
    request_id, _, number = image_id.partition("_")
    record = await _find(services, caller, request_id)
    record = await require_ended(services.queue, record, "The response has not ended yet.")
    before = images_of(record) if final_outcome(record).failure is None else ()
    index = int(number[:9]) if number.isdecimal() else 0
    if index >= len(before):
        raise InvalidInput.of_field(place, "This response has no such image")
    return services.files.access.url(origin, before[index].key, record.tenant)


async def _find(services: Services, caller: Caller, request_id: str) -> Request:
    what = f"response {RESPONSE}{request_id[:64]}"
    return await find_maker(services, caller, request_id, what, is_image, images.makes_images)


async def _of_path(request: HttpRequest) -> Request:
    """Request of the response that the path names."""
    caller = await authenticate(request)
    record = await _find(services_of(request), caller, request.path_params["request_id"])
    name_request(request, record)
    return record


def _response(
    request: Request,
    items: Sequence[OpenAiImageCall],
    previous: str | None,
    status: ResponseStatus | None = None,
) -> OpenAiResponse:
    """``status``: another one than that of the request."""
    ended = request.finished_at if request.state.final else None
    error = None
    if request.state.final and request.state is not State.SUCCEEDED:
        error = _error((request.outcome.failure if request.outcome else None) or NO_OUTCOME)
    return {
        "id": f"{RESPONSE}{request.id}",
        "object": "response",
        "created_at": int(request.created_at.timestamp()),
        "completed_at": int(ended.timestamp()) if ended else None,
        "status": status or STATUSES[request.state],
        "model": request.requested_model or request.endpoint,
        "output": [*items],
        "error": error,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": previous,
        "tool_choice": "auto",
        "tools": [{"type": TOOL}],
        "usage": {**USAGE},
    }


def _error(failure: Failure) -> OpenAiResponseError:
    return {
        "code": "server_error" if failure.field is None else "invalid_prompt",
        "message": failure.message,
    }


async def _items(services: Services, request: Request) -> list[OpenAiImageCall]:
    """Images of a request that succeeded."""
    return [
        await _item(services, request, number, image)
        for number, image in enumerate(images_of(request))
    ]


async def _item(
    services: Services, request: Request, number: int, image: Artifact
) -> OpenAiImageCall:
    pixels = image.width is not None and image.height is not None
    return {
        **_pending_image(request, number),
        "status": "completed",
        "result": await base64_of(services.files.storage, image.key, image.size),
        "output_format": format_of(image),
        "size": f"{image.width}x{image.height}" if pixels else None,
        "revised_prompt": request.input.get("prompt"),
    }


def _pending_image(request: Request, number: int = 0) -> OpenAiImageCall:
    """Image that is not there yet."""
    return {
        "id": f"{IMAGE_CALL}{request.id}" + (f"_{number}" if number else ""),
        "type": CALL,
        "status": "in_progress",
        "result": None,
        "output_format": None,
        "size": None,
        "revised_prompt": None,
    }


@dataclass(frozen=True, slots=True)
class _Events:
    """Events of a response, numbered."""

    services: Services
    previous: str | None
    numbers: Iterator[int] = field(default_factory=count)

    def begin(self, request: Request, /) -> Iterator[bytes]:
        response = _response(request, (), self.previous, "in_progress")
        yield self._event("created", response=response)
        yield self._event("in_progress", response=response)
        yield self._event("output_item.added", output_index=0, item=_pending_image(request))
        yield self._of_call("in_progress", request)
        yield self._of_call("generating", request)

    def partial(self, request: Request, index: int, preview: Preview, /) -> bytes:
        return self._of_call(
            "partial_image",
            request,
            partial_image_index=index,
            partial_image_b64=base64.b64encode(preview.image).decode("ascii"),
            output_format="jpeg",
        )

    async def end(self, request: Request, /) -> AsyncGenerator[bytes]:
        if final_outcome(request).failure is not None:
            yield self._event("failed", response=_response(request, (), self.previous))
            return
        items = await _items(self.services, request)
        for number, item in enumerate(items):
            if number:
                added = _pending_image(request, number)
                yield self._event("output_item.added", output_index=number, item=added)
            yield self._of_call("completed", request, number)
            yield self._event("output_item.done", output_index=number, item=item)
        yield self._event("completed", response=_response(request, items, self.previous))

    def _of_call(self, name: str, request: Request, number: int = 0, **fields: Any) -> bytes:
        item = {"item_id": _pending_image(request, number)["id"], "output_index": number}
        return self._event(f"{CALL}.{name}", **item, **fields)

    def _event(self, name: str, **fields: Any) -> bytes:
        type_ = f"response.{name}"
        head = {"type": type_, "sequence_number": next(self.numbers)}
        return sse.json_event({**head, **fields}, event=type_)


CREATE = Operation(
    "openaiCreateResponse",
    "Make an image from the last turn of a conversation",
    {
        200: Answer(
            "The response. With `background`, before it has run. With `stream`: its events.",
            {JSON: OpenAiResponse, EVENTS: str},
        )
    },
    errors=(*AT_SUBMIT, *AT_END),
    body=ResponseParameters,
    description="Only the tool `image_generation` is there: no text model runs.",
    tag=TAG,
    error_format=ERRORS,
)
SHOW = replace(
    CREATE,
    name="openaiGetResponse",
    summary="Show a response, with its images",
    responses={200: answer("The response.", OpenAiResponse)},
    errors=(400, 404, 410, 503),
    parameters=(in_path("request_id", "Id of the request, as in `resp_` and this id."),),
    body=None,
    description=None,
)
CANCEL = replace(
    SHOW,
    name="openaiCancelResponse",
    summary="Cancel a response; one that has ended stays as it is",
)
DELETE = replace(
    SHOW,
    name="openaiDeleteResponse",
    summary="Delete an ended response, with its images",
    responses={200: answer("The response is deleted.", DeletedResponse)},
    errors=(400, 404),
)
