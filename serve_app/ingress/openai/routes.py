"""Paths of OpenAI's protocol, under ``/openai/v1``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import NotFound
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer, in_path
from serve_app.ingress.http.paths import OPENAI_PREFIX
from serve_app.ingress.http.route_scopes import ANY_KEY, NO_KEY
from serve_app.ingress.http.routing import ProtocolRoutes, build_route
from serve_app.ingress.openai import audio, images, responses, videos
from serve_app.ingress.openai.batches import calls as batches
from serve_app.ingress.openai.batches import files
from serve_app.ingress.openai.errors import ERRORS, TAG, error_response
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission.model_lookup import find_endpoint, plain_aliases, served_models
from serve_app.tenants.scopes import CANCEL, FILES, READ, SUBMIT, Caller

# ``models``: all served endpoints, and the aliases of them.

LONG_AGO = 0
"""Creation time of every model. OpenAI's format requires one, and the catalog has none."""


class OpenAiModel(TypedDict):
    """Endpoint, under its id or an alias."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    darkroom_endpoint: str


class OpenAiModels(TypedDict):
    object: Literal["list"]
    data: list[OpenAiModel]


async def list_models(request: HttpRequest) -> Response:
    caller = await authenticate(request)
    services = services_of(request)
    body: OpenAiModels = {"object": "list", "data": list(_models(services, caller))}
    return json_reply(body)


async def show_model(request: HttpRequest) -> Response:
    """Show a model by id or alias. ``EndpointNotFound`` suggests similar ids."""
    caller = await authenticate(request)
    services = services_of(request)
    name: str = request.path_params["model"]
    entry = find_endpoint(services, caller, name)
    caller.require_endpoint(entry.endpoint.id)
    return json_reply(_model(name, entry.endpoint.id))


def _models(services: Services, caller: Caller) -> Iterator[OpenAiModel]:
    served = [entry.endpoint.id for entry in served_models(services, caller)]
    for endpoint_id in served:
        yield _model(endpoint_id, endpoint_id)
    for alias, endpoint_id in plain_aliases(services.config.models.model_aliases).items():
        if endpoint_id in served:
            yield _model(alias, endpoint_id)


def _model(name: str, endpoint_id: str) -> OpenAiModel:
    return {
        "id": name,
        "object": "model",
        "created": LONG_AGO,
        "owned_by": endpoint_id.partition("/")[0],
        "darkroom_endpoint": endpoint_id,
    }


NOT_HERE = (
    "/videos/edits",
    "/videos/extensions",
    "/videos/characters",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(
        f"{request.method} {request.url.path} is not supported here. Of OpenAI's API, only "
        "images/generations, images/edits, images/variations, audio/transcriptions, "
        "audio/translations, audio/speech, responses with the tool image_generation, videos, "
        "models, files and batches are, under /openai/v1."
    )


LIST_MODELS = Operation(
    "openaiListModels",
    "List the endpoints that are served, and their aliases",
    {200: answer("The models.", OpenAiModels)},
    tag=TAG,
    error_format=ERRORS,
)
SHOW_MODEL = Operation(
    "openaiGetModel",
    "Show a model by id or alias",
    {200: answer("The model.", OpenAiModel)},
    errors=(404,),
    parameters=(in_path("model", "Id or alias. Its slashes need not be escaped."),),
    tag=TAG,
    error_format=ERRORS,
)


_route = ProtocolRoutes("openai", OPENAI_PREFIX, error_response).route

ROUTES = [
    _route(
        "POST",
        "/images/generations",
        images.generations,
        "images.generate",
        images.GENERATE,
        SUBMIT,
    ),
    _route("POST", "/images/edits", images.edits, "images.edit", images.EDITS, SUBMIT),
    _route(
        "POST",
        "/images/variations",
        images.variations,
        "images.variation",
        images.VARIATIONS,
        SUBMIT,
    ),
    _route(
        "POST",
        "/audio/transcriptions",
        audio.transcriptions,
        "audio.transcription",
        audio.TRANSCRIBE,
        SUBMIT,
    ),
    _route(
        "POST",
        "/audio/translations",
        audio.translations,
        "audio.translation",
        audio.TRANSLATE,
        SUBMIT,
    ),
    _route("POST", "/audio/speech", audio.speech, "audio.speech", audio.SPEAK, SUBMIT),
    _route("POST", "/responses", responses.create, "response.create", responses.CREATE, SUBMIT),
    _route("GET", "/responses/resp_{request_id}", responses.show, "response", responses.SHOW, READ),
    _route(
        "DELETE",
        "/responses/resp_{request_id}",
        responses.delete,
        "response.delete",
        responses.DELETE,
        CANCEL,
    ),
    _route(
        "POST",
        "/responses/resp_{request_id}/cancel",
        responses.cancel_response,
        "response.cancel",
        responses.CANCEL,
        CANCEL,
    ),
    _route("POST", "/videos", videos.create, "videos.create", videos.CREATE, SUBMIT),
    _route("GET", "/videos", videos.list_videos, "videos", videos.LIST, READ),
    _route("GET", "/videos/{request_id}", videos.show, "video", videos.SHOW, READ),
    _route("DELETE", "/videos/{request_id}", videos.delete, "video.delete", videos.DELETE, CANCEL),
    _route(
        "GET",
        "/videos/{request_id}/content",
        videos.content,
        "video.content",
        videos.GET_CONTENT,
        READ,
    ),
    _route(
        "POST",
        "/videos/{request_id}/remix",
        videos.remix,
        "videos.remix",
        videos.REMIX,
        SUBMIT,
    ),
    *(
        _route(
            "POST", path, videos.not_here, "videos.other", videos.refused_call(number, path), SUBMIT
        )
        for number, path in enumerate(NOT_HERE)
    ),
    _route("POST", "/files", files.create, "file.create", files.CREATE, FILES),
    _route("GET", "/files", files.list_files, "files", files.LIST, FILES),
    _route("GET", "/files/{file_id}", files.show, "file", files.SHOW, FILES),
    _route(
        "GET", "/files/{file_id}/content", files.content, "file.content", files.GET_CONTENT, READ
    ),
    _route("DELETE", "/files/{file_id}", files.delete, "file.delete", files.DELETE, FILES),
    _route("POST", "/batches", batches.create, "batch.create", batches.CREATE, SUBMIT),
    _route("GET", "/batches", batches.list_batches, "batches", batches.LIST, READ),
    _route("GET", "/batches/{batch_id}", batches.show, "batch", batches.SHOW, READ),
    _route(
        "POST",
        "/batches/{batch_id}/cancel",
        batches.cancel,
        "batch.cancel",
        batches.CANCEL,
        CANCEL,
    ),
    _route("GET", "/models", list_models, "models", LIST_MODELS, ANY_KEY),
    _route("GET", "/models/{model:path}", show_model, "model", SHOW_MODEL, ANY_KEY),
    build_route(
        "/openai/{rest:path}",
        unknown,
        *METHODS,
        label="openai.other",
        refusal=error_response,
        scope=NO_KEY,
    ),
]
