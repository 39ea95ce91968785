"""Paths of Replicate's protocol, under ``/replicate/v1``."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import NotFound
from serve_app.ingress.http.paths import REPLICATE_PREFIX
from serve_app.ingress.http.route_scopes import ANY_KEY, NO_KEY
from serve_app.ingress.http.routing import ProtocolRoutes, build_route
from serve_app.ingress.replicate import (
    collections,
    deployments,
    files,
    models,
    predictions,
    refusals,
    webhooks,
)
from serve_app.ingress.replicate.errors import error_response
from serve_app.tenants.scopes import CANCEL, FILES, READ, SUBMIT

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(
        f"{request.method} {request.url.path} is not supported here. Of Replicate's API, only "
        "account, models, collections, deployments, hardware, predictions, files and the "
        "webhooks' secret are, under /replicate/v1."
    )


_route = ProtocolRoutes("replicate", REPLICATE_PREFIX, error_response).route

_ONE = "/predictions/{request_id}"
_MODEL = "/models/{owner}/{name}"
_DEPLOYMENT = "/deployments/{owner}/{name}"

ROUTES = [
    _route(
        "POST",
        "/predictions",
        predictions.create,
        "predictions.create",
        predictions.CREATE,
        SUBMIT,
    ),
    _route(
        "GET", "/predictions", predictions.list_predictions, "predictions", predictions.LIST, READ
    ),
    _route("GET", _ONE, predictions.show, "prediction", predictions.SHOW, READ),
    _route(
        "POST",
        f"{_ONE}/cancel",
        predictions.cancel_prediction,
        "prediction.cancel",
        predictions.CANCEL,
        CANCEL,
    ),
    _route(
        "GET", f"{_ONE}/stream", predictions.stream, "prediction.stream", predictions.STREAM, READ
    ),
    _route("POST", "/files", files.create, "files.create", files.CREATE, FILES),
    _route("GET", "/files", files.list_files, "files", files.LIST, FILES),
    _route("GET", "/files/{file_id:path}", files.show, "file", files.SHOW, FILES),
    _route("DELETE", "/files/{file_id:path}", files.delete, "file.delete", files.DELETE, FILES),
    _route(
        "GET",
        "/webhooks/default/secret",
        webhooks.secret,
        "webhooks.secret",
        webhooks.SHOW_SECRET,
        READ,
    ),
    _route("GET", "/account", models.account, "account", models.ACCOUNT, ANY_KEY),
    _route("GET", "/models", models.list_models, "models", models.LIST, ANY_KEY),
    # OpenAPI 3.0 cannot describe the method QUERY.
    _route("QUERY", "/models", models.search, "models.search", None, ANY_KEY),
    _route("GET", _MODEL, models.show, "model", models.SHOW, ANY_KEY),
    _route("GET", f"{_MODEL}/readme", models.readme, "model.readme", models.README, ANY_KEY),
    _route(
        "GET",
        f"{_MODEL}/examples",
        models.examples,
        "model.examples",
        models.LIST_EXAMPLES,
        ANY_KEY,
    ),
    _route("GET", f"{_MODEL}/versions", models.versions, "versions", models.LIST_VERSIONS, ANY_KEY),
    _route(
        "GET",
        f"{_MODEL}/versions/{{version}}",
        models.version,
        "version",
        models.SHOW_VERSION,
        ANY_KEY,
    ),
    _route(
        "POST",
        f"{_MODEL}/predictions",
        predictions.created_of_model,
        "predictions.create",
        predictions.CREATE_OF_MODEL,
        SUBMIT,
    ),
    _route(
        "GET",
        "/collections",
        collections.list_collections,
        "collections",
        collections.LIST,
        ANY_KEY,
    ),
    _route("GET", "/collections/{slug}", collections.show, "collection", collections.SHOW, ANY_KEY),
    _route("GET", "/hardware", deployments.hardware, "hardware", deployments.HARDWARE, ANY_KEY),
    _route(
        "GET",
        "/deployments",
        deployments.list_deployments,
        "deployments",
        deployments.LIST,
        ANY_KEY,
    ),
    _route("GET", _DEPLOYMENT, deployments.show, "deployment", deployments.SHOW, ANY_KEY),
    _route(
        "POST",
        f"{_DEPLOYMENT}/predictions",
        predictions.created_of_model,
        "predictions.create",
        deployments.PREDICT,
        SUBMIT,
    ),
    *(
        _route(refusal.method, refusal.path, refusal.answer, "refused", refusal.operation, ANY_KEY)
        for refusal in refusals.REFUSED
    ),
    build_route(
        "/replicate/{rest:path}",
        unknown,
        *METHODS,
        label="replicate.other",
        refusal=error_response,
        scope=NO_KEY,
    ),
]
