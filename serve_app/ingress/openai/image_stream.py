"""Streams of images in OpenAI's formats. Their partial images are Darkroom's previews."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import DarkroomError
from serve_app.domain.progress import Preview
from serve_app.domain.request import NewRequest, Request, State
from serve_app.ingress.http import sse
from serve_app.ingress.openai import image_parameters
from serve_app.ingress.openai.errors import OpenAiError, error_body, failure_body
from serve_app.ingress.openai.image_parameters import ImageRequest
from serve_app.ingress.openai.runs import with_endpoint
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.rendering import base64_of, final_outcome

KEEP_ALIVE_S = 15.0
"""Longest silence of a stream in seconds, so that proxies keep it open."""

LOOK_S = 1.0
"""Interval in seconds at which previews are read while partial images are wanted. Previews are made
only while they are read."""

NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""Token usage, which OpenAI's events must have. Darkroom does not count tokens."""


class StreamEvents(Protocol):
    """Events of a call, in its format."""

    def begin(self, request: Request, /) -> Iterator[bytes]: ...

    def partial(self, request: Request, index: int, preview: Preview, /) -> bytes: ...

    def end(self, request: Request, /) -> AsyncIterator[bytes]:
        """Yield the images, or the failure. ``request`` has ended."""
        ...


async def stream(
    request: HttpRequest, new: NewRequest, events: StreamEvents, partial_images: int
) -> Response:
    """Store a request and answer with the stream of its events. A client that disconnects before
    the end cancels the request."""
    services = services_of(request)
    storing = submission.submit(services, new)
    try:
        stored = await asyncio.shield(storing)
    except asyncio.CancelledError:
        submission.abandon(services, new, storing)
        raise
    following = _Following(services, new.without_input(), storing, partial_images)
    return with_endpoint(request, sse.stream_reply(following.stream(events)), new, stored)


@dataclass(frozen=True, slots=True)
class _Following:
    """One call's stream."""

    services: Services
    new: NewRequest
    storing: asyncio.Task[Request]  # done
    partial_images: int

    async def stream(self, events: StreamEvents) -> AsyncGenerator[bytes]:
        """Yield the beginning, partial images (at most as many as requested), and the end."""
        request = self.storing.result()
        watch = _Partials(self.partial_images if self.services.config.models.previews else 0)
        silent_s = 0.0
        try:
            for event in events.begin(request):
                yield event
            while not request.state.final:
                preview = await self._preview(request) if watch.may_send else None
                if preview is not None and watch.admit(preview, request):
                    silent_s = 0.0
                    yield events.partial(request, watch.sent - 1, preview)
                elif silent_s >= KEEP_ALIVE_S:
                    silent_s = 0.0
                    yield sse.NOTHING_NEW
                request = await self._next(request, LOOK_S)
                silent_s += LOOK_S
            async for event in events.end(request):
                yield event
        except DarkroomError as error:  # the status of the response is already sent
            yield error_event(error_body(error.message, 500, error.code))
        finally:
            if not request.state.final:
                submission.abandon(self.services, self.new, self.storing)

    async def _next(self, request: Request, timeout_s: float) -> Request:
        return await self.services.queue.wait_for_change(
            request.tenant, request.id, timeout_s, since=request
        )

    async def _preview(self, request: Request) -> Preview | None:
        if request.state is not State.RUNNING or not request.previews:
            return None
        return await self.services.queue.preview(request.tenant, request.id)


def error_event(body: OpenAiError) -> bytes:
    return sse.json_event(body, event="error")


@dataclass(frozen=True, slots=True)
class ImagesEvents:
    """Events of the images' calls: partial images, then one event for each image. ``kind`` is
    ``image_generation`` or ``image_edit``."""

    services: Services
    image_request: ImageRequest
    names: Mapping[str, str]
    kind: str

    def begin(self, _: Request, /) -> Iterator[bytes]:
        return iter(())

    def partial(self, _: Request, index: int, preview: Preview, /) -> bytes:
        return self._event(
            "partial_image",
            b64_json=base64.b64encode(preview.image).decode("ascii"),
            partial_image_index=index,
            output_format="jpeg",
        )

    async def end(self, request: Request, /) -> AsyncGenerator[bytes]:
        if (failure := final_outcome(request).failure) is not None:
            yield error_event(failure_body(failure, self.names))
            return
        for image in image_parameters.images_of(request):
            yield self._event(
                "completed",
                b64_json=await base64_of(self.services.files.storage, image.key, image.size),
                size=image_parameters.size_of(image, self.image_request),
                output_format=image_parameters.format_of(image),
                usage=NO_TOKENS,
                **image_parameters.kept_of(request),
            )

    def _event(self, name: str, **fields: Any) -> bytes:
        type_ = f"{self.kind}.{name}"
        created = int(self.services.clock.now().timestamp())
        head = {"type": type_, "created_at": created}
        return sse.json_event({**head, **self.image_request.echoed, **fields}, event=type_)


class _Partials:
    """Selection of the previews that are sent: ``most`` of them, spread evenly over the steps."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._last = 0
        self.sent = 0

    @property
    def may_send(self) -> bool:
        return self.sent < self._most

    def admit(self, preview: Preview, request: Request) -> bool:
        """Return whether to send this preview now. If so, it counts as sent."""
        steps = request.progress.steps if request.progress else 0
        share = preview.step / steps if steps else 1.0
        if preview.step == self._last or share < (self.sent + 1) / (self._most + 1):
            return False
        self._last = preview.step
        self.sent += 1
        return True
