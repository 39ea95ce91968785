"""Paths of Replicate's protocol, under ``/replicate/v1``."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound
from serve_app.ingress.replicate import files, models, predictions, webhook
from serve_app.ingress.replicate.refusal import refused
from serve_app.ingress.translated import Handler, translated

PREFIX = "/replicate/v1"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(
        f"{request.method} {request.url.path} is not there. Of Replicate's API there are account, "
        "models and their versions, predictions, files and the webhooks' secret, under "
        "/replicate/v1."
    )


def _route(method: str, path: str, handler: Handler, label: str) -> Route:
    label = f"replicate.{label}"
    return translated(PREFIX + path, handler, method, label=label, refusal=refused)


_ONE = "/predictions/{request_id}"
_MODEL = "/models/{owner}/{name}"

ROUTES = [
    _route("POST", "/predictions", predictions.created, "predictions.create"),
    _route("GET", "/predictions", predictions.listed, "predictions"),
    _route("GET", _ONE, predictions.shown, "prediction"),
    _route("POST", f"{_ONE}/cancel", predictions.cancelled, "prediction.cancel"),
    _route("GET", f"{_ONE}/stream", predictions.streamed, "prediction.stream"),
    _route("POST", "/files", files.created, "files.create"),
    _route("GET", "/files", files.listed, "files"),
    _route("GET", "/files/{file_id:path}", files.shown, "file"),
    _route("DELETE", "/files/{file_id:path}", files.deleted, "file.delete"),
    _route("GET", "/webhooks/default/secret", webhook.secret, "webhooks.secret"),
    _route("GET", "/account", models.account, "account"),
    _route("GET", "/models", models.listed, "models"),
    _route("QUERY", "/models", models.searched, "models.search"),
    _route("GET", _MODEL, models.shown, "model"),
    _route("GET", f"{_MODEL}/versions", models.versions, "versions"),
    _route("GET", f"{_MODEL}/versions/{{version}}", models.version, "version"),
    _route("POST", f"{_MODEL}/predictions", predictions.created_of_model, "predictions.create"),
    translated(
        "/replicate/{rest:path}", unknown, *METHODS, label="replicate.other", refusal=refused
    ),
]
