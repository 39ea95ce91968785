"""``/v1/requests/{id}/events``: what happens to a request, as it happens (server-sent events).

The lines of the request's log carry their sequence as ``id``, so a client that comes back with
``Last-Event-ID`` goes on behind the one it saw last, at whichever ingress. Progress, and why it
waits, have no ``id``: only the newest is told.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Hashable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from serve_app.domain.errors import FieldProblem, InvalidInput, RequestNotFound, Unavailable
from serve_app.domain.ports import Queue
from serve_app.domain.request import LogLine, Request, State, Waiting, WaitReason
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.standing import waiting_body

KEEP_ALIVE_S = 15.0
"""A stream says something at least this often, so that proxies keep it open."""

STANDING_S, COLD_S = 10.0, 3.0
"""So often it is looked at where a queued request stands, and while it waits for a cold start."""

SOON_S = 5.0
"""A time to start that moves by less is not told again."""

RECONNECT_MS = 1000
"""After so long a browser asks again when the stream broke off."""


async def events(request: HttpRequest) -> Response:
    """204, which tells browsers not to come back, when all was told up to the end."""
    exchange_of(request).route = "v1.request.events"
    caller = await caller_of(request)
    queue = core_of(request).queue
    after = _after(request)
    found = await queue.get(caller.tenant, request.path_params["request_id"])
    if found.state.final and 0 < found.events <= after:
        return Response(status_code=204)
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(
        stream(queue, found, after), headers=headers, media_type="text/event-stream"
    )


async def stream(
    queue: Queue, request: Request, after: int, keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncGenerator[str]:
    """Events of ``request`` behind the sequence ``after``, until the one with its final state.

    Broken off when the database goes away or the request is deleted: a client that comes back is
    told which.
    """
    told: dict[str, Any] | None = None
    stood: Hashable = None
    quiet_s = 0.0
    yield f"retry: {RECONNECT_MS}\n\n"
    try:
        while True:
            for line in await queue.lines(request.tenant, request.id, after):
                after = line.sequence
                yield _line(line)
                if line.state is not None and line.state.final:
                    return
            if request.state.final:
                return
            progress = _progress(request)
            if progress is not None and progress != told:
                told = progress
                yield _event("progress", progress)
            wait_s = keep_alive_s
            if request.state is State.QUEUED:
                waiting = await queue.waiting(request)
                cold = waiting.reason is WaitReason.COLD_START
                standing = _standing(waiting)
                if standing != stood:
                    stood, quiet_s = standing, 0.0
                    yield _event("waiting", {"position": waiting.position, **waiting_body(waiting)})
                wait_s = min(COLD_S if cold else STANDING_S, keep_alive_s - quiet_s)
            before, request = (
                request,
                await queue.changed(request.tenant, request.id, wait_s, since=request),
            )
            quiet_s = quiet_s + wait_s if request == before else 0.0
            if quiet_s >= keep_alive_s:
                quiet_s = 0.0
                yield ": nothing new\n\n"
    except (RequestNotFound, Unavailable):
        return


def _line(line: LogLine) -> str:
    body: dict[str, Any] = {
        "sequence": line.sequence,
        "at": line.at.isoformat(),
        "level": line.level,
        "message": line.message,
    }
    if line.state is None:
        return f"id: {line.sequence}\n{_event('log', body)}"
    return f"id: {line.sequence}\n{_event('state', {'state': line.state.value, **body})}"


def _progress(request: Request) -> dict[str, Any] | None:
    progress = request.progress
    if progress is None:
        return None
    return {
        "attempt": request.attempt,
        "stage": progress.stage.value,
        "step": progress.step,
        "steps": progress.steps,
        "rate": round(progress.rate, 2) or None,
        "left_s": progress.left_s,
        "preview_step": request.preview_step,
    }


def _standing(waiting: Waiting) -> Hashable:
    """Equal for two between which a person sees no difference."""
    share, starts_at = waiting.share, waiting.starts_at
    return (
        waiting.position,
        waiting.reason,
        waiting.detail,
        waiting.stage,
        None if share is None else round(share, 2),
        None if starts_at is None else starts_at.timestamp() // SOON_S,
    )


def _event(name: str, body: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n"


def _after(request: HttpRequest) -> int:
    given = request.headers.get("last-event-id", "").strip() or "0"
    if given.isascii() and given.isdecimal() and len(given) <= 9:
        return int(given)
    what = "should be the `id` of an event of this request"
    problem = FieldProblem(("header", "Last-Event-ID"), what, "value_error", None, given[:100])
    raise InvalidInput(f"The header Last-Event-ID {what}.", (problem,))
