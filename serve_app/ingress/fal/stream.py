"""``POST /{endpoint}/stream``: what happens to a request, and at the end its output, as events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.domain.errors import DarkroomError, NotFound
from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, State
from serve_app.ingress import submission
from serve_app.ingress.caller import caller_at
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.errors import answer_for, body_for
from serve_app.ingress.exchange import exchange_of, gone
from serve_app.ingress.fal import news
from serve_app.ingress.fal.addressing import request_base
from serve_app.ingress.fal.output import outcome_reply
from serve_app.ingress.fal.paths import request_urls
from serve_app.ingress.fal.status import status_body
from serve_app.ingress.fal.submit import accepted
from serve_app.ingress.previews import preview_url
from serve_app.ingress.repeats import about

FIRST_WORD_S = 1.0
"""So long a request may stay without a word of it, so that its early failure is still told by the
status of the answer."""

KEEP_ALIVE_S = 10.0
"""A stream says something at least this often: fal's JavaScript client gives up after 15 s."""

LOOK_S = 2.0
"""While it runs, so often somebody looks at its previews, which are made only then."""


async def stream(request: HttpRequest, endpoint_id: str) -> Response:
    """Statuses with previews, and last the output. Hanging up cancels.

    What goes wrong before the first event is answered as ``run`` would. Later, the last event is
    the error, and the connection breaks off behind it: by nothing else fal's clients notice.
    """
    core = core_of(request)
    exchange_of(request).route = "fal.stream"
    news.refuse(request)
    caller = await caller_at(request, endpoint_id)
    new, origin = await accepted(request, core, endpoint_id, caller)
    storing = submission.submit(core, new)
    try:
        stored = await asyncio.shield(storing)
        begun = await _first_word(core, stored)
    except asyncio.CancelledError:
        submission.abandon(core, new, storing)
        raise
    story = _Story(core, begun, origin, request_base(request, "/queue"))
    if begun.state.final and not _succeeded(begun):
        return about(request, await story.end(begun), new, begun)
    reply = EventStream(story, lambda: submission.abandon(core, new, storing))
    return about(request, reply, new, begun)


class EventStream(Response):
    """The events of a story. ``on_gone`` is called when the client goes away before its end."""

    def __init__(self, story: _Story, on_gone: Callable[[], None]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._story = story
        self._on_gone = on_gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        going = asyncio.ensure_future(gone(receive))
        events = self._story.events()
        try:
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            while (event := await _next(events, going)) is not None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        except (asyncio.CancelledError, OSError):
            self._on_gone()
            raise
        finally:
            going.cancel()
            await events.aclose()
        if self._story.succeeded:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self._story.ended:
            self._on_gone()


class _Story:
    """What is told of a request, from how it stands."""

    def __init__(self, core: Core, request: Request, origin: str, base: str) -> None:
        self._core = core
        self._request = request
        self._origin = origin
        self._urls = request_urls(base, request.endpoint, request.id)
        self._shown = (0, 0)  # attempt and step of the preview that was told last
        self.ended = False
        self.succeeded = False

    async def events(self) -> AsyncGenerator[bytes]:
        """Server-sent events; comments while there is nothing new."""
        try:
            async for event in self._events():
                yield event
        except DarkroomError as error:  # the database is away, or the request was deleted
            self.ended = True
            yield _failed(body_for(error), answer_for(error).status)

    async def _events(self) -> AsyncGenerator[bytes]:
        told: dict[str, Any] | None = None
        while not self._request.state.final:
            request = self._request
            body = await self._status(request)
            if body != told:
                yield _event(body | await self._picture(request))
                told = body
            self._request = await self._changed(request)
            if self._request == request:
                yield b": nothing new\n\n"
        self.succeeded = _succeeded(self._request)
        reply = await self.end(self._request)
        self.ended = True
        body = bytes(reply.body)
        if self.succeeded:
            yield b"data: " + body + b"\n\n"
        else:
            yield _failed(json.loads(body), reply.status_code)

    async def end(self, request: Request) -> Response:
        """As ``run`` answers."""
        return await outcome_reply(request, self._core.storage, self._origin)

    async def _status(self, request: Request) -> dict[str, Any]:
        queue = self._core.queue
        queued = request.state is State.QUEUED
        waiting = await queue.waiting(request) if queued else None
        preview = preview_url(request, self._origin, made=self._core.config.previews)
        ends_at = None if queued else await queue.ends_at(request)
        return status_body(request, waiting, None, self._urls, ends_at, preview)

    async def _picture(self, request: Request) -> dict[str, Any]:
        """The newest preview, where an output has its pictures. Asking makes the next one."""
        progress = request.progress
        if not (self._core.config.previews and request.previews and request.state is State.RUNNING):
            return {}
        if progress is None or progress.stage is not Stage.DENOISING:
            return {}
        try:
            found = await self._core.queue.preview(request.tenant, request.id)
        except NotFound:  # it has just ended
            return {}
        if found is None or (request.attempt, found.step) == self._shown:
            return {}
        self._shown = (request.attempt, found.step)
        encoded = base64.b64encode(found.picture).decode("ascii")
        picture = {"url": f"data:image/jpeg;base64,{encoded}", "content_type": "image/jpeg"}
        return {"images": [picture]}

    async def _changed(self, request: Request) -> Request:
        wait_s = LOOK_S if request.state is State.RUNNING else KEEP_ALIVE_S
        return await self._core.queue.changed(request.tenant, request.id, wait_s, since=request)


async def _first_word(core: Core, request: Request) -> Request:
    """As it is when it has made progress, or has ended, or after ``FIRST_WORD_S``."""
    end = core.clock.monotonic() + FIRST_WORD_S
    while not request.state.final and request.progress is None:
        left_s = end - core.clock.monotonic()
        if left_s <= 0:
            break
        request = await core.queue.changed(request.tenant, request.id, left_s, since=request)
    return request


async def _next(events: AsyncGenerator[bytes], going: asyncio.Future[None]) -> bytes | None:
    """None at their end, and as soon as ``going`` has happened."""
    coming = asyncio.ensure_future(anext(events, None))
    try:
        await asyncio.wait((coming, going), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not coming.done():
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
    return None if coming.cancelled() else coming.result()


def _succeeded(request: Request) -> bool:
    return request.outcome is not None and request.outcome.failure is None


def _failed(body: dict[str, Any], status: int) -> bytes:
    return b"event: error\n" + _event(body | {"status": status})


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()
