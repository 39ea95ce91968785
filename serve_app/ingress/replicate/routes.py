"""Paths of Replicate's protocol, under ``/replicate/v1``."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound
from serve_app.ingress.http.openapi import Operation
from serve_app.ingress.http.paths import REPLICATE_PREFIX
from serve_app.ingress.http.routing import Handler, translated
from serve_app.ingress.replicate import files, models, predictions, webhooks
from serve_app.ingress.replicate.errors import refused

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(
        f"{request.method} {request.url.path} is not supported here. Of Replicate's API, only "
        "account, models and their versions, predictions, files and the webhooks' secret are, "
        "under /replicate/v1."
    )


def _route(method: str, path: str, handler: Handler, label: str, call: Operation | None) -> Route:
    return translated(
        REPLICATE_PREFIX + path,
        handler,
        method,
        label=f"replicate.{label}",
        refusal=refused,
        operations={method: call} if call else None,
    )


_ONE = "/predictions/{request_id}"
_MODEL = "/models/{owner}/{name}"

ROUTES = [
    _route("POST", "/predictions", predictions.created, "predictions.create", predictions.CREATE),
    _route("GET", "/predictions", predictions.listed, "predictions", predictions.LIST),
    _route("GET", _ONE, predictions.shown, "prediction", predictions.SHOW),
    _route(
        "POST", f"{_ONE}/cancel", predictions.cancelled, "prediction.cancel", predictions.CANCEL
    ),
    _route("GET", f"{_ONE}/stream", predictions.streamed, "prediction.stream", predictions.STREAM),
    _route("POST", "/files", files.created, "files.create", files.CREATE),
    _route("GET", "/files", files.listed, "files", files.LIST),
    _route("GET", "/files/{file_id:path}", files.shown, "file", files.SHOW),
    _route("DELETE", "/files/{file_id:path}", files.deleted, "file.delete", files.DELETE),
    _route(
        "GET", "/webhooks/default/secret", webhooks.secret, "webhooks.secret", webhooks.SHOW_SECRET
    ),
    _route("GET", "/account", models.account, "account", models.ACCOUNT),
    _route("GET", "/models", models.listed, "models", models.LIST),
    # OpenAPI 3.0 cannot describe the method QUERY.
    _route("QUERY", "/models", models.searched, "models.search", None),
    _route("GET", _MODEL, models.shown, "model", models.SHOW),
    _route("GET", f"{_MODEL}/versions", models.versions, "versions", models.LIST_VERSIONS),
    _route("GET", f"{_MODEL}/versions/{{version}}", models.version, "version", models.SHOW_VERSION),
    _route(
        "POST",
        f"{_MODEL}/predictions",
        predictions.created_of_model,
        "predictions.create",
        predictions.CREATE_OF_MODEL,
    ),
    translated(
        "/replicate/{rest:path}", unknown, *METHODS, label="replicate.other", refusal=refused
    ),
]
