"""Previews over HTTP: a picture of a running request, for its own tenant."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound
from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, State
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of

HEADERS = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}


async def shown(request: HttpRequest) -> Response:
    """The newest, or 204 while there is none. Asking is what makes the next one."""
    exchange_of(request).route = "v1.request.preview"
    caller = await caller_of(request)
    core = core_of(request)
    if not core.config.previews:
        raise NotFound("This installation makes no previews (DARKROOM_PREVIEWS).")
    found = await core.queue.preview(caller.tenant, request.path_params["request_id"])
    if found is None:
        return Response(status_code=204, headers=HEADERS)
    step = {"x-darkroom-step": str(found.step)}
    return Response(found.picture, headers=HEADERS | step, media_type="image/jpeg")


def preview_url(request: Request, origin: str, *, made: bool) -> str | None:
    """Where to ask for it; another for each picture. None while there can be none. ``made``: by
    this installation."""
    progress = request.progress
    if not made or not request.previews or request.state is not State.RUNNING or progress is None:
        return None
    url = f"{origin}/v1/requests/{request.id}/preview"
    if request.preview_step:
        return f"{url}?attempt={request.attempt}&step={request.preview_step}"
    # While weights are loaded, a look would be forgotten before there is something to see.
    return url if progress.stage is Stage.DENOISING else None


ROUTES = [Route("/v1/requests/{request_id}/preview", shown, methods=["GET"])]
