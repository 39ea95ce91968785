"""What fal's webhook may be told of a request before it ends: how far it is."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import replace

from starlette.requests import Request as HttpRequest

from serve_app.domain.request import NewRequest, Request, State
from serve_app.domain.webhook import Webhook
from serve_app.ingress import query
from serve_app.ingress.core import Core
from serve_app.ingress.fal import webhook
from serve_app.ingress.fal.status import status_body, version
from serve_app.ingress.previews import preview_url
from serve_app.webhooks.herald import Story

NAME = "fal_webhook_progress"
YES, NO = ("1", "true"), ("0", "false")

EVERY_S = 1.0
"""So much time at least is between two calls about a request."""


def wanted(request: HttpRequest) -> bool:
    """The query parameter ``fal_webhook_progress``; ``InvalidInput``."""
    given = request.query_params.get(NAME)
    if given is None or given in NO:
        return False
    if given not in YES:
        raise query.invalid(NAME, f"should be one of {', '.join((*YES, *NO))}", given)
    if request.query_params.get(webhook.NAME) is None:
        raise query.invalid(NAME, f"needs {webhook.NAME}, the URL to call", given)
    return True


def refuse(request: HttpRequest) -> None:
    """For calls whose answer itself tells how far it is, or waits; ``InvalidInput``."""
    if wanted(request):
        raise query.invalid(NAME, "is for submits to the queue", YES[0])


def marked(core: Core, new: NewRequest) -> NewRequest:
    """``new``, whose end is not told before all else of it is."""
    if new.webhook is None:
        return new
    origin = core.webhooks.herald.marked(new.webhook.origin)
    return replace(new, webhook=Webhook(new.webhook.url, origin))


def follow(core: Core, request: Request, url: str, origin: str) -> None:
    """Tell ``url``, which is checked, of the request from now on."""
    core.webhooks.herald.follow(request, Story(url, News(core, origin), EVERY_S))


class News:
    """A status, whenever a request that runs is further than was told."""

    def __init__(self, core: Core, origin: str) -> None:
        self._core = core
        self._origin = origin
        self._told: Hashable = None

    async def __call__(self, request: Request) -> bytes | None:
        now = version(request, 0)
        if request.state is not State.RUNNING or request.progress is None or now == self._told:
            return None
        self._told = now
        preview = preview_url(request, self._origin, made=self._core.config.previews)
        ends_at = await self._core.queue.ends_at(request)
        body = status_body(request, None, None, {}, ends_at, preview)
        del body["logs"]
        told = {"request_id": request.id, "gateway_request_id": request.id, **body}
        return json.dumps(told, separators=(",", ":")).encode()
