"""fal's calls about a stored request: status, status stream, result, cancel, deletion."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NotRequired

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import DarkroomError, RequestNotFound
from serve_app.domain.request import CancelVerdict, LogLine, Request, State
from serve_app.domain.sharing.admission import end_admission
from serve_app.ingress.fal.previews import PreviewReader
from serve_app.ingress.fal.rewriting import request_base
from serve_app.ingress.fal.status import (
    QueueStatus,
    StatusResult,
    status_body,
    version,
    with_workflow,
)
from serve_app.ingress.http import sse
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.context import context_of, name_request
from serve_app.ingress.http.errors import error_reply, json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.http.origin import file_url, origin_of
from serve_app.ingress.http.paths import RequestPath, RequestResource, RequestUrls, request_urls
from serve_app.ingress.services.replies import HOLD_S
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.protocol import find_request, require_ended
from serve_app.ingress.submission.rendering import outcome_reply
from serve_app.ingress.submission.status import preview_url
from serve_app.ingress.workflows.status import workflow_status
from serve_app.tenants.scopes import CANCEL, READ

STREAM_KEEP_ALIVE_S = 15.0
"""Longest silence of a stream in seconds, so that proxies keep it open."""

CancelWord = Literal["OK", "CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]

VERDICTS: Mapping[CancelVerdict, tuple[int, CancelWord]] = {
    CancelVerdict.CANCELLED: (200, "OK"),
    CancelVerdict.REQUESTED: (202, "CANCELLATION_REQUESTED"),
    CancelVerdict.ALREADY_FINAL: (400, "ALREADY_COMPLETED"),
}


class CancelStatus(TypedDict):
    """Result of a cancel."""

    status: CancelWord
    detail: NotRequired[str]
    message: NotRequired[str]


@dataclass(frozen=True, slots=True)
class RequestCall:
    """Call about a request that exists and belongs to the caller."""

    services: Services
    request: Request
    origin: str  # base of URLs
    urls: RequestUrls
    with_logs: bool
    with_result: bool
    previews: PreviewReader | None  # None: the caller does not want them


async def status(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """Answer 202 until the end, then 200. A poll is held back until there is something new."""
    call = await _find(request, path, prefix)
    services, record = call.services, call.request
    lines = await _lines(call, record)
    poll = (record.id, call.with_logs)
    seen = version(record, len(lines or ()))
    if not record.state.final and services.replies.last.is_unchanged(
        poll, seen, services.clock.monotonic()
    ):
        end_admission()
        record = await services.queue.wait_for_change(
            record.tenant, record.id, HOLD_S, since=record
        )
        lines = await _lines(call, record)
    if record.state.final:
        services.replies.last.forget(poll)
    else:
        services.replies.last.record(
            poll, version(record, len(lines or ())), services.clock.monotonic()
        )
    body = await _body(call, record, lines)
    return json_reply(body, 200 if record.state.final else 202)


async def status_stream(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """Send a status at once and at each change, until the end. Log lines are sent once each."""
    call = await _find(request, path, prefix)
    return sse.stream_reply(_events(call))


async def result(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """Answer with the output or the failure, as ``run`` would have."""
    call = await _find(request, path, prefix)
    waiting = "The request has not ended yet."
    record = await require_ended(call.services.queue, call.request, waiting)
    return await outcome_reply(record, call.services.files, origin_of(request))


async def cancel(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """Cancel a request.

    200: it will never start. 202: it stops at its next step. 400: it has already ended.
    """
    call = await _find(request, path, prefix)
    verdict = await call.services.queue.cancel(
        call.request.tenant, call.request.id, actor_of(request)
    )
    code, word = VERDICTS[verdict]
    body: CancelStatus = {"status": word}
    if verdict is CancelVerdict.ALREADY_FINAL:
        body["detail"] = "The request has already ended."
        body["message"] = "It has already ended."
    return json_reply(body, code)


def not_found(error: RequestNotFound) -> Response:
    """Response for an unknown request: fal's ``status``, and ``detail`` for its clients."""
    plain = error_reply(error)
    content = {**json.loads(bytes(plain.body)), "status": "NOT_FOUND"}
    return json_reply(content, plain.status_code)


async def _find(request: HttpRequest, path: RequestPath, prefix: str) -> RequestCall:
    services = services_of(request)
    context_of(request).route = f"fal.{path.part.value}"
    scope = CANCEL if path.part is RequestResource.CANCEL else READ
    caller = await authenticate(request, scope)
    what = f"request {path.request_id[:64]} under {path.app}"
    record = await find_request(services.queue, caller.tenant, path.request_id, what)
    if not path.fits(record.endpoint):
        raise RequestNotFound(f"There is no {what}.")
    caller.require_endpoint(record.endpoint)
    name_request(request, record)
    origin = origin_of(request)
    return RequestCall(
        services=services,
        request=record,
        origin=origin,
        urls=request_urls(request_base(request, prefix), record.endpoint, record.id),
        with_logs=_wants(request, "logs"),
        with_result=_wants(request, "result"),
        previews=PreviewReader(services) if _wants(request, "previews") else None,
    )


def _wants(request: HttpRequest, what: str) -> bool:
    return request.query_params.get(what, "").lower() in ("1", "true", "yes", "on")


async def _lines(call: RequestCall, request: Request) -> Sequence[LogLine] | None:
    if not call.with_logs:
        return None
    return await call.services.queue.lines(request.tenant, request.id)


async def _body(
    call: RequestCall, request: Request, lines: Sequence[LogLine] | None
) -> QueueStatus:
    queued = request.state is State.QUEUED
    running = request.state is State.RUNNING
    waiting = await call.services.queue.waiting(request) if queued else None
    ends_at = await call.services.queue.ends_at(request) if running else None
    preview = preview_url(request, call.origin, has_previews=call.services.config.models.previews)
    body = status_body(request, waiting, lines, call.urls, ends_at, preview)
    if call.previews is not None and (images := await call.previews.new(request)):
        body["images"] = images
    if call.with_result and request.state.final:
        body["result"] = await _result_body(call, request)
    return with_workflow(body, await workflow_status(call.services, request))


async def _result_body(call: RequestCall, request: Request) -> StatusResult:
    """The result as its own call answers it, with its HTTP status."""
    try:
        reply = await outcome_reply(request, call.services.files, call.origin)
    except DarkroomError as error:  # the outcome was deleted, or its files cannot be read
        reply = error_reply(error)
    return {"status": reply.status_code, "body": json.loads(bytes(reply.body))}


async def _events(call: RequestCall) -> AsyncIterator[bytes]:
    request, sent = call.request, 0
    while True:
        lines = await _lines(call, request)
        fresh = None if lines is None else lines[sent:]
        sent = len(lines or ())
        body = await _body(call, request, fresh)
        yield sse.json_event(body)
        if request.state.final:
            return
        request = await call.services.queue.wait_for_change(
            request.tenant, request.id, STREAM_KEEP_ALIVE_S, since=request
        )


# fal's call that deletes the input and the output of a request.


class DeletedFile(TypedDict):
    link: str
    exception: Annotated[str | None, Field(description="Why the file still exists.")]


class DeletedPayloads(TypedDict):
    cdn_delete_results: list[DeletedFile]


async def delete_payloads(request: HttpRequest) -> Response:
    """Delete a request and its files. Answer with each file's URL, and why it still exists, if it
    does. Unlike at fal, the request itself is deleted too."""
    context_of(request).route = "fal.payloads.delete"
    origin = origin_of(request)
    caller = await authenticate(request)
    request_id: str = request.path_params["request_id"]
    files = await submission.delete(
        services_of(request), caller.tenant, request_id, actor_of(request)
    )
    body: DeletedPayloads = {
        "cdn_delete_results": [
            {"link": file_url(origin, key), "exception": why} for key, why in files.items()
        ]
    }
    return json_reply(body)


DELETE_PAYLOADS = Operation(
    "deletePayloads",
    "Delete an ended request with its files, as at fal",
    {200: answer("Each file.", DeletedPayloads)},
    errors=(400, 404),
    parameters=(in_path("request_id", "Id of a request of the key's tenant."),),
)

ROUTES = [
    DocumentedRoute(
        "/v1/models/requests/{request_id}/payloads",
        delete_payloads,
        {"DELETE": DELETE_PAYLOADS},
        CANCEL,
    ),
]
