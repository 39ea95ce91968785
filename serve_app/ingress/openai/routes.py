"""Paths of OpenAI's protocol, under ``/openai/v1``."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound
from serve_app.ingress.openai import clips, models, pictures
from serve_app.ingress.openai.refusal import refused
from serve_app.ingress.translated import Handler, translated

PREFIX = "/openai/v1"
NOT_HERE = (
    "/videos/{request_id}/remix",
    "/videos/edits",
    "/videos/extensions",
    "/videos/characters",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(
        f"{request.method} {request.url.path} is not there. Of OpenAI's API there are "
        "images/generations, images/edits, videos and models, under /openai/v1."
    )


def _route(method: str, path: str, handler: Handler, label: str) -> Route:
    return translated(PREFIX + path, handler, method, label=f"openai.{label}", refusal=refused)


ROUTES = [
    _route("POST", "/images/generations", pictures.generations, "images.generate"),
    _route("POST", "/images/edits", pictures.edits, "images.edit"),
    _route("POST", "/videos", clips.created, "videos.create"),
    _route("GET", "/videos", clips.listed, "videos"),
    _route("GET", "/videos/{request_id}", clips.shown, "video"),
    _route("DELETE", "/videos/{request_id}", clips.deleted, "video.delete"),
    _route("GET", "/videos/{request_id}/content", clips.content, "video.content"),
    *(_route("POST", path, clips.not_here, "videos.other") for path in NOT_HERE),
    _route("GET", "/models", models.listed, "models"),
    _route("GET", "/models/{model:path}", models.shown, "model"),
    translated("/openai/{rest:path}", unknown, *METHODS, label="openai.other", refusal=refused),
]
