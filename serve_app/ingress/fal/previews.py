"""Previews of a running request in the events of its streams."""

from __future__ import annotations

from typing_extensions import TypedDict

from serve_app.domain.media.data_uri import data_uri
from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, State
from serve_app.ingress.services.services import Services

JPEG = "image/jpeg"


class InlinePreview(TypedDict):
    url: str  # data URI
    content_type: str


class PreviewReader:
    """Previews of one request that a stream has not sent yet."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sent = (0, 0)  # attempt and step

    async def new(self, request: Request) -> list[InlinePreview]:
        """Read the newest preview, which causes the next one. Empty: it was sent."""
        if not self._may_have(request):
            return []
        preview = await self._services.queue.preview(request.tenant, request.id)
        if preview is None or (request.attempt, preview.step) == self._sent:
            return []
        self._sent = (request.attempt, preview.step)
        return [{"url": data_uri(preview.image, JPEG), "content_type": JPEG}]

    def _may_have(self, request: Request) -> bool:
        progress = request.progress
        return (
            self._services.config.models.previews
            and request.previews
            and request.state is State.RUNNING
            and progress is not None
            and progress.stage is Stage.DENOISING
        )
