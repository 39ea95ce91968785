"""Pictures as they come into being: OpenAI's stream, whose partial images are our previews."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from serve_app.domain.errors import DarkroomError, NotFound
from serve_app.domain.progress import Preview
from serve_app.domain.request import NewRequest, Request, State
from serve_app.ingress import submission
from serve_app.ingress.core import Core
from serve_app.ingress.fal.output import outcome_of
from serve_app.ingress.openai import picture_answer
from serve_app.ingress.openai.picture_wish import PictureWish
from serve_app.ingress.openai.refusal import error_body, failure_body

KEEP_ALIVE_S = 15.0
"""A stream says something at least this often, so that proxies keep it open."""

LOOK_S = 1.0
"""While partial images are wanted, somebody has to be seen to look: previews are made for those
who do."""

NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""OpenAI's events have to tell a use of tokens. Nothing here is counted in tokens."""


@dataclass(frozen=True, slots=True)
class PictureStream:
    """One call's stream. ``kind`` is ``image_generation`` or ``image_edit``."""

    core: Core
    new: NewRequest
    storing: asyncio.Task[Request]  # done
    wish: PictureWish
    names: dict[str, str]
    kind: str

    async def events(self) -> AsyncGenerator[bytes]:
        """Partial images, as many as were asked for at most, then one event for each picture, or
        the error. Who goes away before the end cancels the request."""
        request = self.storing.result()
        watch = _Partials(self.wish.partial_images if self.core.config.previews else 0)
        silent_s = 0.0
        try:
            while not request.state.final:
                preview = await self._preview(request) if watch.wanted else None
                if preview is not None and watch.due(preview, request):
                    silent_s = 0.0
                    yield self._partial(watch.sent - 1, preview)
                elif silent_s >= KEEP_ALIVE_S:
                    silent_s = 0.0
                    yield b": keep-alive\n\n"
                request = await self._next(request, LOOK_S)
                silent_s += LOOK_S
            async for event in self._end(request):
                yield event
        except DarkroomError as error:  # the answer has begun: its status cannot tell any more
            yield _event("error", error_body(error.message, 500, error.code))
        finally:
            if not request.state.final:
                submission.abandon(self.core, self.new, self.storing)

    async def _next(self, request: Request, timeout_s: float) -> Request:
        return await self.core.queue.changed(request.tenant, request.id, timeout_s, since=request)

    async def _preview(self, request: Request) -> Preview | None:
        if request.state is not State.RUNNING or not request.previews:
            return None
        try:
            return await self.core.queue.preview(request.tenant, request.id)
        except NotFound:  # it has ended since
            return None

    async def _end(self, request: Request) -> AsyncGenerator[bytes]:
        if (failure := outcome_of(request).failure) is not None:
            yield _event("error", failure_body(failure, self.names))
            return
        for picture in picture_answer.pictures_of(request):
            yield self._event(
                "completed",
                b64_json=await picture_answer.encoded(self.core.storage, picture),
                size=picture_answer.size_of(picture, self.wish),
                output_format=picture_answer.format_of(picture),
                usage=NO_TOKENS,
                **picture_answer.kept_of(request),
            )

    def _partial(self, index: int, preview: Preview) -> bytes:
        return self._event(
            "partial_image",
            b64_json=base64.b64encode(preview.picture).decode("ascii"),
            partial_image_index=index,
            output_format="jpeg",
        )

    def _event(self, name: str, **fields: Any) -> bytes:
        type_ = f"{self.kind}.{name}"
        created = int(self.core.clock.now().timestamp())
        return _event(type_, {"type": type_, "created_at": created, **self.wish.told, **fields})


class _Partials:
    """Which previews go out: ``most``, spread evenly over the steps."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._last = 0
        self.sent = 0

    @property
    def wanted(self) -> bool:
        return self.sent < self._most

    def due(self, preview: Preview, request: Request) -> bool:
        """Whether this one is to go out now; then it counts as sent."""
        steps = request.progress.steps if request.progress else 0
        share = preview.step / steps if steps else 1.0
        if preview.step == self._last or share < (self.sent + 1) / (self._most + 1):
            return False
        self._last = preview.step
        self.sent += 1
        return True


def _event(name: str, body: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(body, separators=(',', ':'))}\n\n".encode()
