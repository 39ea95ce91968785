"""Previews over HTTP: an image of a running request, for the request's tenant."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import NotFound
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import Answer, DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import READ

HEADERS = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}


async def show_preview(request: HttpRequest) -> Response:
    """Answer with the newest preview, or 204 without one. Each call causes the next preview."""
    context_of(request).route = "v1.request.preview"
    caller = await authenticate(request)
    services = services_of(request)
    if not services.config.models.previews:
        raise NotFound("Previews are turned off on this installation (DARKROOM_PREVIEWS).")
    preview = await services.queue.preview(caller.tenant, request.path_params["request_id"])
    if preview is None:
        return Response(status_code=204, headers=HEADERS)
    step = {"x-darkroom-step": str(preview.step)}
    return Response(preview.image, headers=HEADERS | step, media_type="image/jpeg")


SHOW_PREVIEW = Operation(
    "getPreview",
    "Show a small image of a running request. Previews are made only while they are read",
    {
        200: answer(
            "The newest preview. `X-Darkroom-Step` is the step that it shows.", Binary, "image/jpeg"
        ),
        204: Answer("There is no preview yet, or the request does not run any more."),
    },
    errors=(404,),
    parameters=(in_path("request_id", "Id of a request of the key's tenant."),),
)

ROUTES = [
    DocumentedRoute("/v1/requests/{request_id}/preview", show_preview, {"GET": SHOW_PREVIEW}, READ),
]
