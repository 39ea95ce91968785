"""Models and their versions: the catalog in Replicate's format."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.endpoint import MAX_SEARCH
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import read_body
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import VERSION, Operation, answer, in_path
from serve_app.ingress.replicate import prediction
from serve_app.ingress.replicate.errors import ERRORS, TAG
from serve_app.ingress.replicate.prediction import (
    CURSOR,
    Output,
    PredictionMetrics,
    ReplicatePage,
    schemas,
)
from serve_app.ingress.replicate.predictions import NAME, OWNER, base_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.model_lookup import served_models
from serve_app.tenants.scopes import Caller

PAGE = 25
LONG_AGO = "1970-01-01T00:00:00+00:00"
"""Creation time of every version. Replicate's format requires one, and the catalog has none."""

COG = "0.9.0"
"""Cog version, which Replicate's format requires. Its client reads the schema as that Cog wrote it:
since 0.3.9 a list is a list, unless it is marked as an iterator."""


class ReplicateAccount(TypedDict):
    """The key's tenant."""

    type: Literal["organization"]
    username: str
    name: str
    github_url: str | None


class ReplicateVersion(TypedDict):
    """Version of a model, with its schemas."""

    id: str
    created_at: Time
    cog_version: str
    openapi_schema: dict[str, Any]


class ExampleUrls(TypedDict):
    get: str


class ReplicateExample(TypedDict):
    """Example of an endpoint as a prediction. It never was a request."""

    id: str
    model: str
    version: str
    input: dict[str, Any]
    output: Output
    logs: str
    error: str | None
    status: Literal["succeeded"]
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    metrics: PredictionMetrics
    data_removed: Annotated[bool, Field(description="True: no output is stored.")]
    urls: ExampleUrls


class ReplicateModel(TypedDict):
    """Endpoint as a model. Replicate's clients need the fields that are always null."""

    url: str
    owner: str
    name: str
    description: str
    visibility: Literal["public"]
    github_url: str | None
    paper_url: str | None
    license_url: str | None
    run_count: int
    cover_image_url: str | None
    default_example: ReplicateExample | None
    latest_version: ReplicateVersion
    darkroom_endpoint: NotRequired[str]
    darkroom_demo: NotRequired[bool]


class ReplicateModelPage(ReplicatePage):
    results: list[ReplicateModel]


class ReplicateVersionPage(ReplicatePage):
    results: list[ReplicateVersion]


class ReplicateExamplePage(ReplicatePage):
    results: list[ReplicateExample]


async def account(request: HttpRequest) -> Response:
    caller = await authenticate(request)
    body: ReplicateAccount = {
        "type": "organization",
        "username": caller.tenant,
        "name": caller.tenant,
        "github_url": None,
    }
    return json_reply(body)


async def list_models(request: HttpRequest) -> Response:
    """List the served models in the catalog's order, page by page."""
    caller = await authenticate(request)
    page, following = page_of_served(request, caller, "models")
    return await _page(page, base_of(request), following)


async def search(request: HttpRequest) -> Response:
    """Find models with all words of the body in their id, name, description or category."""
    caller = await authenticate(request)
    words = _query(await read_body(request, MAX_SEARCH))
    served = served_models(services_of(request), caller)
    entries = [entry for entry in served if entry.endpoint.has_words(words)]
    return await _page(entries, base_of(request), None)


async def show(request: HttpRequest) -> Response:
    entry = named_model(request, await authenticate(request))
    return json_reply(await in_cpu_thread(rendered_model, entry, base_of(request)))


async def readme(request: HttpRequest) -> Response:
    """Text about a model in Markdown: that of its entry, or its name and description."""
    entry = named_model(request, await authenticate(request))
    endpoint = entry.endpoint
    short = f"# {endpoint.display_name or endpoint.id}\n\n{endpoint.description}\n"
    return PlainTextResponse(entry.source.readme or short)


async def examples(request: HttpRequest) -> Response:
    entry = named_model(request, await authenticate(request))
    results = _examples(entry, base_of(request))
    body: ReplicateExamplePage = {"previous": None, "next": None, "results": results}
    return json_reply(body)


async def versions(request: HttpRequest) -> Response:
    """List the versions of a model. There is always one."""
    entry = named_model(request, await authenticate(request))
    version = await in_cpu_thread(_version, entry)
    body: ReplicateVersionPage = {"previous": None, "next": None, "results": [version]}
    return json_reply(body)


async def version(request: HttpRequest) -> Response:
    model = named_model(request, await authenticate(request))
    entry = prediction.check_version(model, request.path_params["version"])
    return json_reply(await in_cpu_thread(_version, entry))


async def _page(entries: Sequence[CatalogEntry], base: str, following: str | None) -> Response:
    results = await in_cpu_thread(lambda: [rendered_model(entry, base) for entry in entries])
    body: ReplicateModelPage = {"previous": None, "next": following, "results": results}
    return json_reply(body)


ACCOUNT = Operation(
    "replicateGetAccount",
    "Show the key's tenant",
    {200: answer("The tenant.", ReplicateAccount)},
    tag=TAG,
    error_format=ERRORS,
)
LIST = Operation(
    "replicateListModels",
    "List the endpoints that are served",
    {200: answer("A page.", ReplicateModelPage)},
    errors=(422,),
    parameters=(CURSOR,),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = Operation(
    "replicateGetModel",
    "Show an endpoint with its schemas",
    {200: answer("The model.", ReplicateModel)},
    errors=(404, 422),
    parameters=(OWNER, NAME),
    tag=TAG,
    error_format=ERRORS,
)
README = replace(
    SHOW,
    name="replicateGetReadme",
    summary="Show the text about an endpoint, in Markdown",
    responses={200: answer("The text.", str, "text/plain")},
)
LIST_EXAMPLES = replace(
    SHOW,
    name="replicateListExamples",
    summary="List the examples of an endpoint as predictions",
    responses={200: answer("The examples.", ReplicateExamplePage)},
)
LIST_VERSIONS = replace(
    SHOW,
    name="replicateListVersions",
    summary="List the versions of a model. There is always one",
    responses={200: answer("The version.", ReplicateVersionPage)},
)
SHOW_VERSION = replace(
    SHOW,
    name="replicateGetVersion",
    summary="Show a version of a model",
    responses={200: answer("The version.", ReplicateVersion)},
    parameters=(OWNER, NAME, in_path("version", "Id of the version.")),
)


def page_of_served(
    request: HttpRequest, caller: Caller, what: str
) -> tuple[Sequence[CatalogEntry], str | None]:
    """Page of the served endpoints at the call's cursor, and the URL of the next, whose path ends
    with ``what``."""
    served = [*served_models(services_of(request), caller)]
    ids = [entry.endpoint.id for entry in served]
    start = query.after_cursor(request, ids, "should be the one of the previous page")
    page = served[start : start + PAGE]
    if len(served) <= start + PAGE:
        return page, None
    return page, f"{base_of(request)}/v1/{what}?cursor={page[-1].endpoint.id}"


def named_model(request: HttpRequest, caller: Caller) -> CatalogEntry:
    """Endpoint that the path names. ``EndpointNotFound``, ``Forbidden``."""
    path = request.path_params
    name = f"{path['owner']}/{path['name']}"
    entry = prediction.listed_models(services_of(request), caller, name)
    caller.require_endpoint(entry.endpoint.id)
    return entry


def _query(body: bytes) -> str:
    """Text of a search. Replicate's JavaScript client sends it as a JSON string, with the type
    ``text/plain`` as its Python client does."""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        value: object = json.loads(text)
        return value if isinstance(value, str) else text
    return text


def rendered_model(entry: CatalogEntry, base: str) -> ReplicateModel:
    """Model in Replicate's format. It takes milliseconds, so call it in a thread."""
    endpoint = entry.endpoint
    owner, _, name = prediction.model_id(endpoint.id).partition("/")
    return {
        "url": f"{base}/v1/models/{owner}/{name}",
        "owner": owner,
        "name": name,
        "description": " ".join(filter(None, (endpoint.description, entry.missing))),
        "visibility": "public",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": next(iter(_examples(entry, base)), None),
        "latest_version": _version(entry),
        "darkroom_endpoint": endpoint.id,
        "darkroom_demo": entry.demo,
    }


def _examples(entry: CatalogEntry, base: str) -> list[ReplicateExample]:
    """Examples of the entry, those with an output first."""
    model, origin = prediction.model_id(entry.endpoint.id), base.removesuffix(prediction.PREFIX)
    return [
        {
            "id": f"{entry.endpoint.digest}-example-{number}",
            "model": model,
            "version": entry.endpoint.digest,
            "input": example.input,
            "output": example.output and _absolute(prediction.plain(example.output), origin),
            "logs": "",
            "error": None,
            "status": "succeeded",
            "created_at": LONG_AGO,
            "started_at": LONG_AGO,
            "completed_at": LONG_AGO,
            "metrics": {},
            "data_removed": example.output is None,
            "urls": {"get": f"{base}/v1/models/{model}/examples"},
        }
        for number, example in enumerate(
            sorted(entry.examples, key=lambda sample: sample.output is None), 1
        )
    ]


def _absolute(output: Any, origin: str) -> Any:
    """``output`` with whole URLs: those of files that come with Darkroom have no origin."""
    if isinstance(output, list):
        return [_absolute(item, origin) for item in cast("list[Any]", output)]
    return f"{origin}{output}" if isinstance(output, str) and output.startswith("/") else output


def _version(entry: CatalogEntry) -> ReplicateVersion:
    endpoint = entry.endpoint
    return {
        "id": endpoint.digest,
        "created_at": LONG_AGO,
        "cog_version": COG,
        "openapi_schema": {
            "openapi": VERSION,
            "info": {"title": endpoint.id, "version": endpoint.digest},
            "paths": {},
            "components": {"schemas": schemas(entry)},
        },
    }
