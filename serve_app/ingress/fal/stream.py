"""``POST /{endpoint}/stream``: events of a request, and at the end its output.

The events of a generator of an app are its values, as of fal's own apps. Those of other endpoints
are statuses with previews.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.domain.errors import DarkroomError, DatabaseUnavailable
from serve_app.domain.request import Request, State
from serve_app.domain.workflows.definition import POOL
from serve_app.ingress.fal import webhooks
from serve_app.ingress.fal.previews import PreviewReader
from serve_app.ingress.fal.rewriting import request_base
from serve_app.ingress.fal.status import QueueStatus, status_body
from serve_app.ingress.fal.submit import read_call
from serve_app.ingress.http import sse
from serve_app.ingress.http.auth import authenticate_for_endpoint
from serve_app.ingress.http.context import context_of, wait_disconnected
from serve_app.ingress.http.errors import body_for, http_answer
from serve_app.ingress.http.paths import request_urls
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.partials import PartialReader
from serve_app.ingress.submission.rendering import outcome_reply
from serve_app.ingress.submission.replay import add_replay_headers
from serve_app.ingress.submission.status import preview_url
from serve_app.ingress.workflows.status import WorkflowEvents

FIRST_EVENT_TIMEOUT_S = 1.0
"""Seconds to wait for the first progress before the response begins. A failure within this time
still decides the HTTP status."""

KEEP_ALIVE_S = 10.0
"""Longest silence of a stream in seconds: fal's JavaScript client gives up after 15 s."""

PREVIEW_INTERVAL_S = 2.0
"""Interval in seconds at which a running request's preview is read. Previews are made only on
demand."""


async def stream(request: HttpRequest, endpoint_id: str) -> Response:
    """Stream statuses with previews, and then the output. Disconnecting cancels the request.

    An error before the first event is answered as ``run`` would answer it. A later error is the
    last event, and then the connection breaks: fal's clients notice an error in no other way.
    """
    services = services_of(request)
    context_of(request).route = "fal.stream"
    webhooks.reject_parameter(request)
    caller = await authenticate_for_endpoint(request, endpoint_id)
    new, origin = await read_call(request, services, endpoint_id, caller)
    entry = services.catalog.find(new.endpoint)
    storing = submission.submit(services, new)
    try:
        stored = await asyncio.shield(storing)
        partials = None
        if entry is not None and entry.endpoint.streams:
            partials = PartialReader(services.queue, services.partials, stored)
        begun = await _first_progress(services, stored, partials)
    except (asyncio.CancelledError, DatabaseUnavailable):
        submission.abandon(services, new, storing)
        raise
    base = request_base(request, "/queue")
    source = _EventSource(services, stored, begun, origin, base, partials)
    if begun.state.final and not _has_succeeded(begun):
        return add_replay_headers(request, await source.end(begun), new, begun)
    reply = EventStream(source, lambda: submission.abandon(services, new, storing))
    return add_replay_headers(request, reply, new, begun)


class EventStream(Response):
    """Response with the events of a request. ``on_gone`` is called if the client disconnects before
    the end, or if that cannot be read."""

    def __init__(self, source: _EventSource, on_gone: Callable[[], None]) -> None:
        super().__init__(headers=sse.HEADERS, media_type=sse.MEDIA_TYPE)
        del self.headers["content-length"]
        self._source = source
        self._on_gone = on_gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        disconnected = asyncio.ensure_future(wait_disconnected(receive))
        events = self._source.events()
        try:
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            while (event := await _next_event(events, disconnected)) is not None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except (asyncio.CancelledError, OSError):
            self._on_gone()
            raise
        finally:
            disconnected.cancel()
            await events.aclose()
        if self._source.succeeded:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self._source.ended:
            self._on_gone()


class _EventSource:
    """Source of the events of ``request``; ``stored``: the same when it was stored. Unless it was
    final then, the first event is a status, from which clients learn the request's id."""

    def __init__(
        self,
        services: Services,
        stored: Request,
        request: Request,
        origin: str,
        base: str,
        partials: PartialReader | None,
    ) -> None:
        self._services = services
        self._stored = stored
        self._request = request
        self._origin = origin
        self._partials = partials  # of a generator of an app
        self._urls = request_urls(base, request.endpoint, request.id)
        self._previews = PreviewReader(services)
        self.ended = False
        self.succeeded = False

    async def events(self) -> AsyncGenerator[bytes]:
        """Server-sent events, and comments while there is nothing new."""
        try:
            async for event in self._events():
                yield event
        except DarkroomError as error:  # the database failed, or the request was deleted
            self.ended = self._request.state.final
            yield _error_event(body_for(error), http_answer(error).status)

    def _events(self) -> AsyncGenerator[bytes]:
        if self._request.pool == POOL:
            return self._of_steps()
        return self._statuses() if self._partials is None else self._values(self._partials)

    async def _of_steps(self) -> AsyncGenerator[bytes]:
        """fal's events of a workflow."""
        events = WorkflowEvents(self._services, self._origin)
        while True:
            request = self._request
            for event in await events.news(request):
                yield sse.json_event(event)
            if request.state.final:
                break
            self._request = await self._wait_for_change(request)
            if self._request == request:
                yield sse.NOTHING_NEW
        self.succeeded = _has_succeeded(self._request)
        self.ended = True
        if self.succeeded:
            yield sse.json_event(await events.output(self._request))
        else:
            failure = await events.failure(self._request)
            yield sse.json_event({**failure, "status": failure["error"]["status"]}, event="error")

    async def _statuses(self) -> AsyncGenerator[bytes]:
        last_sent: QueueStatus | None = None
        if self._request.state.final and not self._stored.state.final:
            yield sse.json_event(await self._status(self._stored))
        while not self._request.state.final:
            request = self._request
            body = await self._status(request)
            if body != last_sent:
                last_sent = body
                if images := await self._previews.new(request):
                    body = {**body, "images": images}
                yield sse.json_event(body)
            self._request = await self._wait_for_change(request)
            if self._request == request:
                yield sse.NOTHING_NEW
        yield await self._last()

    async def _values(self, partials: PartialReader) -> AsyncGenerator[bytes]:
        """Events with the values of a generator. Their ids have the attempt, which grows if a
        replica dies and another one begins again, and the number of the value."""
        sent, quiet_s = "", 0.0
        while True:
            final = self._request.state.final
            async for partial in partials.new():
                sent, quiet_s = partial.value, 0.0
                yield sse.event(sent, id=f"{partial.attempt}-{partial.number}")
            if final:
                break
            started = self._services.clock.monotonic()
            self._request = await partials.wait_for_change(self._request, KEEP_ALIVE_S)
            quiet_s += self._services.clock.monotonic() - started
            if quiet_s >= KEEP_ALIVE_S:
                quiet_s = 0.0
                yield sse.NOTHING_NEW
        # A generator's last value is its output: clients that join the values must not get it
        # twice. One with files has their URLs only now.
        if last := await self._last(json.loads(sent) if sent else None):
            yield last

    async def _last(self, sent: Any = None) -> bytes:
        """The event with the output, or with the error. Empty if the output is ``sent``."""
        self.succeeded = _has_succeeded(self._request)
        reply = await self.end(self._request)
        self.ended = True
        body = bytes(reply.body)
        if not self.succeeded:
            return _error_event(json.loads(body), reply.status_code)
        return b"" if sent is not None and json.loads(body) == sent else sse.event(body)

    async def end(self, request: Request) -> Response:
        """Response with the outcome, as ``run`` answers."""
        return await outcome_reply(request, self._services.files, self._origin)

    async def _status(self, request: Request) -> QueueStatus:
        queue = self._services.queue
        queued = request.state is State.QUEUED
        waiting = await queue.waiting(request) if queued else None
        preview = preview_url(
            request, self._origin, has_previews=self._services.config.models.previews
        )
        ends_at = None if queued else await queue.ends_at(request)
        return status_body(request, waiting, None, self._urls, ends_at, preview)

    async def _wait_for_change(self, request: Request) -> Request:
        wait_s = PREVIEW_INTERVAL_S if request.state is State.RUNNING else KEEP_ALIVE_S
        return await self._services.queue.wait_for_change(
            request.tenant, request.id, wait_s, since=request
        )


async def _first_progress(
    services: Services, request: Request, partials: PartialReader | None
) -> Request:
    """Wait up to ``FIRST_EVENT_TIMEOUT_S`` until the request has made progress, has a value of a
    generator, or has ended."""
    if partials is not None:
        return await partials.wait_for_start(request, FIRST_EVENT_TIMEOUT_S)
    end = services.clock.monotonic() + FIRST_EVENT_TIMEOUT_S
    while not request.state.final and request.progress is None and request.pool != POOL:
        left_s = end - services.clock.monotonic()
        if left_s <= 0:
            break
        request = await services.queue.wait_for_change(
            request.tenant, request.id, left_s, since=request
        )
    return request


async def _next_event(
    events: AsyncGenerator[bytes], disconnected: asyncio.Future[None]
) -> bytes | None:
    """Next event; None at the end, or as soon as ``disconnected`` is done."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        await asyncio.wait((coming, disconnected), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not coming.done():
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
    return None if coming.cancelled() else coming.result()


def _has_succeeded(request: Request) -> bool:
    return request.outcome is not None and request.outcome.failure is None


def _error_event(body: Mapping[str, Any], status: int) -> bytes:
    return sse.json_event({**body, "status": status}, event="error")
