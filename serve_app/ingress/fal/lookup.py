"""fal's calls about a stored request: status, its stream, result, cancel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from serve_app.domain.errors import NotFinished, RequestNotFound
from serve_app.domain.request import CancelVerdict, LogLine, Request, State
from serve_app.ingress import ids
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.addressing import request_base
from serve_app.ingress.fal.output import outcome_reply
from serve_app.ingress.fal.paths import RequestPath, request_urls
from serve_app.ingress.fal.status import status_body, version
from serve_app.ingress.held import HOLD_S
from serve_app.ingress.origin import origin_of
from serve_app.ingress.previews import preview_url
from serve_app.ingress.reply import error_reply, json_reply
from serve_app.telemetry import logs

STREAM_LOOK_S = 15.0
"""A stream says something at least this often, so that proxies keep it open."""

VERDICTS = {
    CancelVerdict.CANCELLED: (200, "OK"),
    CancelVerdict.REQUESTED: (202, "CANCELLATION_REQUESTED"),
    CancelVerdict.ALREADY_FINAL: (400, "ALREADY_COMPLETED"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A call about a request that is there and belongs to the caller."""

    core: Core
    request: Request
    origin: str  # of URLs
    urls: dict[str, str]
    with_logs: bool


async def status(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """202 until the end, then 200. A poll to which nothing is new is held until something is."""
    asked = await _find(request, path, prefix)
    core, found = asked.core, asked.request
    lines = await _lines(asked, found)
    poll = (found.id, asked.with_logs)
    seen = version(found, len(lines or ()))
    if not found.state.final and core.answers.nothing_new(poll, seen, core.clock.monotonic()):
        found = await core.queue.changed(found.tenant, found.id, HOLD_S, since=found)
        lines = await _lines(asked, found)
    if found.state.final:
        core.answers.forget(poll)
    else:
        core.answers.answered(poll, version(found, len(lines or ())), core.clock.monotonic())
    body = await _body(asked, found, lines)
    return json_reply(body, 200 if found.state.final else 202)


async def status_stream(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """Events: a status at once and at each change, until the end. Logs are increments."""
    asked = await _find(request, path, prefix)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(_events(asked), headers=headers, media_type="text/event-stream")


async def result(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """The output or the failure, as ``run`` would have answered."""
    asked = await _find(request, path, prefix)
    if not asked.request.state.final:
        raise NotFinished("The request has not ended yet.")
    return await outcome_reply(asked.request, asked.core.storage, origin_of(request))


async def cancel(request: HttpRequest, path: RequestPath, prefix: str) -> Response:
    """200 when it will never start, 202 when it stops at its next step, 400 when it had ended."""
    asked = await _find(request, path, prefix)
    verdict = await asked.core.queue.cancel(asked.request.tenant, asked.request.id)
    code, word = VERDICTS[verdict]
    body = {"status": word}
    if verdict is CancelVerdict.ALREADY_FINAL:
        body |= {"detail": "The request has ended already.", "message": "It has ended already."}
    return json_reply(body, code)


def not_found(error: RequestNotFound) -> Response:
    """fal says it by a status; its clients read ``detail``."""
    plain = error_reply(error)
    content = {**json.loads(bytes(plain.body)), "status": "NOT_FOUND"}
    return json_reply(content, plain.status_code)


async def _find(request: HttpRequest, path: RequestPath, prefix: str) -> Asked:
    core = core_of(request)
    exchange = exchange_of(request)
    exchange.route = f"fal.{path.part.value}"
    caller = await caller_of(request)
    # Foreign, unknown and impossible ids are told in the same words.
    unknown = RequestNotFound(f"There is no request {path.request_id[:64]} under {path.app}.")
    if not ids.valid(path.request_id):
        raise unknown
    try:
        found = await core.queue.get(caller.tenant, path.request_id)
    except RequestNotFound:
        raise unknown from None
    if not path.fits(found.endpoint):
        raise unknown
    exchange.request_id = found.id
    logs.request_id.set(found.id)  # the edge puts it back
    origin = origin_of(request)
    return Asked(
        core=core,
        request=found,
        origin=origin,
        urls=request_urls(request_base(request, prefix), found.endpoint, found.id),
        with_logs=request.query_params.get("logs", "").lower() in ("1", "true", "yes", "on"),
    )


async def _lines(asked: Asked, request: Request) -> Sequence[LogLine] | None:
    if not asked.with_logs:
        return None
    return await asked.core.queue.lines(request.tenant, request.id)


async def _body(
    asked: Asked, request: Request, lines: Sequence[LogLine] | None
) -> dict[str, object]:
    queued = request.state is State.QUEUED
    running = request.state is State.RUNNING
    waiting = await asked.core.queue.waiting(request) if queued else None
    ends_at = await asked.core.queue.ends_at(request) if running else None
    preview = preview_url(request, asked.origin, made=asked.core.config.previews)
    return status_body(request, waiting, lines, asked.urls, ends_at, preview)


async def _events(asked: Asked) -> AsyncIterator[str]:
    request, told = asked.request, 0
    while True:
        lines = await _lines(asked, request)
        fresh = None if lines is None else lines[told:]
        told = len(lines or ())
        body = await _body(asked, request, fresh)
        yield f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
        if request.state.final:
            return
        request = await asked.core.queue.changed(
            request.tenant, request.id, STREAM_LOOK_S, since=request
        )
