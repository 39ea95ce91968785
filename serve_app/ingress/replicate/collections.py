"""Collections of models: the categories of the catalog, such as ``text-to-image``."""

from __future__ import annotations

from dataclasses import replace
from typing import NotRequired

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import NotFound
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer, in_path
from serve_app.ingress.replicate.errors import ERRORS, TAG
from serve_app.ingress.replicate.models import ReplicateModel, rendered_model
from serve_app.ingress.replicate.prediction import ReplicatePage
from serve_app.ingress.replicate.predictions import base_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.model_lookup import served_models


class ReplicateCollection(TypedDict):
    """Category with its endpoints. Lists have it without them."""

    name: str
    slug: str
    description: str
    models: NotRequired[list[ReplicateModel]]


class ReplicateCollectionPage(ReplicatePage):
    results: list[ReplicateCollection]


async def list_collections(request: HttpRequest) -> Response:
    """List the categories that have a served endpoint, in the catalog's order."""
    served = served_models(services_of(request), await authenticate(request))
    slugs = dict.fromkeys(entry.endpoint.category for entry in served)
    results = [_collection(slug) for slug in slugs if slug]
    body: ReplicateCollectionPage = {"previous": None, "next": None, "results": results}
    return json_reply(body)


async def show(request: HttpRequest) -> Response:
    served = [*served_models(services_of(request), await authenticate(request))]
    slug: str = request.path_params["slug"]
    entries = [entry for entry in served if entry.endpoint.category == slug]
    if not entries:
        known = sorted({entry.endpoint.category for entry in served if entry.endpoint.category})
        raise NotFound(
            f"There is no collection {slug[:64]}. Collections are the categories of models: "
            f"{', '.join(known)}."
        )
    body, base = _collection(slug), base_of(request)
    body["models"] = await in_cpu_thread(lambda: [rendered_model(entry, base) for entry in entries])
    return json_reply(body)


LIST = Operation(
    "replicateListCollections",
    "List the categories of endpoints",
    {200: answer("The categories.", ReplicateCollectionPage)},
    tag=TAG,
    error_format=ERRORS,
)
SHOW = replace(
    LIST,
    name="replicateGetCollection",
    summary="Show a category with its endpoints",
    responses={200: answer("The category.", ReplicateCollection)},
    errors=(404,),
    parameters=(in_path("slug", "Name of the category."),),
)


def _collection(slug: str) -> ReplicateCollection:
    name = slug.replace("-", " ").capitalize()
    return {"name": name, "slug": slug, "description": f"Models for {slug} that are served here."}
