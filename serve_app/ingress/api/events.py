"""``/v1/requests/{id}/events``: live events of a request (server-sent events).

Events for lines of the request's log carry the line's sequence number as ``id``. A client that
reconnects with ``Last-Event-ID`` continues after the last line it saw, at any ingress process.
Events for progress and for the reason of waiting have no ``id``: a client gets the newest only.
Events for partial results have none either: a client that reconnects gets those that are kept, each
with its attempt and number.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Hashable, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import FieldProblem, InvalidInput, RequestNotFound, Unavailable
from serve_app.domain.ports import Queue
from serve_app.domain.progress import PartialResult
from serve_app.domain.request import LogLine, Request, State, Waiting, WaitReason
from serve_app.ingress.http import sse
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.partials import LOOK_AGAIN_S, PartialReader
from serve_app.ingress.submission.status import waiting_body

KEEP_ALIVE_S = 15.0
"""Longest silence of a stream in seconds; a comment then keeps proxies from closing it."""

STANDING_S, COLD_S = 10.0, 3.0
"""Interval in seconds at which a queued request's place is read; the second is for cold starts."""

START_TIME_TOLERANCE_S = 5.0
"""Smallest change of the estimated start in seconds that causes an event."""

RECONNECT_MS = 1000
"""Milliseconds after which a browser reconnects to a broken stream."""


async def events(request: HttpRequest) -> Response:
    """Stream the events; answer 204, which stops browsers from reconnecting, if all were sent."""
    context_of(request).route = "v1.request.events"
    caller = await authenticate(request)
    services = services_of(request)
    queue = services.queue
    after = _after(request)
    record = await queue.get(caller.tenant, request.path_params["request_id"])
    if record.state.final and 0 < record.events <= after:
        return Response(status_code=204)
    entry = services.catalog.find(record.endpoint)
    partials = None
    if entry is not None and entry.endpoint.streams:
        partials = PartialReader(queue, services.partials, record)
    return sse.stream_reply(stream(queue, record, after, partials=partials))


async def stream(
    queue: Queue,
    request: Request,
    after: int,
    keep_alive_s: float = KEEP_ALIVE_S,
    partials: PartialReader | None = None,
) -> AsyncGenerator[bytes]:
    """Events of ``request`` after the sequence number ``after``, up to its final state.
    ``partials``: of a generator of an app.

    The stream ends early if the database fails or the request is deleted. A client that reconnects
    gets the error.
    """
    sent_progress: dict[str, Any] | None = None
    waiting_events = _WaitingEvents()
    quiet_s = 0.0
    yield b"retry: %d\n\n" % RECONNECT_MS
    try:
        while True:
            lines = await queue.lines(request.tenant, request.id, after)
            async for partial_result in _new(
                partials
            ):  # after the lines: one of them may be the end
                yield _partial(partial_result)
            for line in lines:
                after = line.sequence
                yield _line(line)
            if request.state.final or _at_end(lines):
                return
            progress = _progress(request)
            if progress is not None and progress != sent_progress:
                sent_progress = progress
                yield sse.json_event(progress, event="progress")
            wait_s = keep_alive_s if partials is None else LOOK_AGAIN_S
            if request.state is State.QUEUED:
                event, wait_s = await waiting_events.look(queue, request, keep_alive_s - quiet_s)
                if event:
                    quiet_s = 0.0
                    yield event
            before = request
            request = await _wait_for_change(queue, partials, request, wait_s)
            quiet_s = quiet_s + wait_s if request == before else 0.0
            if quiet_s >= keep_alive_s:
                quiet_s = 0.0
                yield sse.NOTHING_NEW
    except (RequestNotFound, Unavailable):
        return


def _at_end(lines: Sequence[LogLine]) -> bool:
    return any(line.state is not None and line.state.final for line in lines)


async def _new(partials: PartialReader | None) -> AsyncGenerator[PartialResult]:
    if partials is not None:
        async for partial_result in partials.new():
            yield partial_result


async def _wait_for_change(
    queue: Queue, partials: PartialReader | None, request: Request, wait_s: float
) -> Request:
    if partials is not None and request.state is State.RUNNING:
        return await partials.wait_for_change(request, wait_s)
    return await queue.wait_for_change(request.tenant, request.id, wait_s, since=request)


def _line(line: LogLine) -> bytes:
    body: dict[str, Any] = {
        "sequence": line.sequence,
        "at": line.at.isoformat(),
        "level": line.level,
        "message": line.message,
    }
    if line.state is None:
        return sse.json_event(body, id=line.sequence, event="log")
    return sse.json_event({"state": line.state.value, **body}, id=line.sequence, event="state")


def _partial(result: PartialResult) -> bytes:
    body = {"attempt": result.attempt, "number": result.number, "output": json.loads(result.value)}
    return sse.json_event(body, event="partial")


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


class _WaitingEvents:
    """Events about the place of one request in the queue."""

    def __init__(self) -> None:
        self._sent: Hashable = None

    async def look(self, queue: Queue, request: Request, at_most_s: float) -> tuple[bytes, float]:
        """Event for the current place, empty if it is as in the last event; and the seconds after
        which to look again."""
        waiting = await queue.waiting(request)
        cold = waiting.reason is WaitReason.COLD_START
        wait_s = min(COLD_S if cold else STANDING_S, at_most_s)
        significant = _significant(waiting)
        if significant == self._sent:
            return b"", wait_s
        self._sent = significant
        body = {"position": waiting.position, **waiting_body(waiting)}
        return sse.json_event(body, event="waiting"), wait_s


def _significant(waiting: Waiting) -> Hashable:
    """Key that is equal for two values which a person cannot tell apart."""
    share, starts_at = waiting.share, waiting.starts_at
    return (
        waiting.position,
        waiting.reason,
        waiting.detail,
        waiting.stage,
        None if share is None else round(share, 2),
        None if starts_at is None else starts_at.timestamp() // START_TIME_TOLERANCE_S,
    )


def _after(request: HttpRequest) -> int:
    header = request.headers.get("last-event-id", "").strip() or "0"
    if header.isascii() and header.isdecimal() and len(header) <= 9:
        return int(header)
    what = "should be the `id` of an event of this request"
    problem = FieldProblem(("header", "Last-Event-ID"), what, "value_error", None, header[:100])
    raise InvalidInput(f"The header Last-Event-ID {what}.", (problem,))
