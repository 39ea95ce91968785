"""Routes of the OpenAPI documents, and of ``llms.txt``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import WithJsonSchema
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.entries import EntryOrigin
from serve_app.domain.errors import EndpointNotFound
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path, in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.route_scopes import ANY_KEY
from serve_app.ingress.openapi.document import PATH, document_of
from serve_app.ingress.openapi.endpoint_text import endpoint_text
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import Caller


async def full_document(request: HttpRequest) -> Response:
    """OpenAPI document of every call and every endpoint of this installation.

    ``?endpoint_id=`` gives the document of that endpoint, which is a hundredth of the size.
    """
    if "endpoint_id" in request.query_params:
        return await endpoint_document(request)
    context_of(request).route = "openapi"
    caller = await authenticate(request)
    catalog, whole = services_of(request).catalog_of(caller), document_of(request).of_installation
    return json_reply(await in_cpu_thread(whole, catalog, origin_of(request)))


async def endpoint_document(request: HttpRequest) -> Response:
    """OpenAPI document of one endpoint (``?endpoint_id=``), at the same path as fal's."""
    context_of(request).route = "openapi.endpoint"
    caller = await authenticate(request)
    endpoint_id = request.query_params.get("endpoint_id")
    if endpoint_id is None:
        raise query.invalid("endpoint_id", "should be an endpoint's id", "")
    entry = services_of(request).catalog_of(caller).get_listed(endpoint_id)
    of_endpoint = document_of(request).of_endpoint
    return json_reply(await in_cpu_thread(of_endpoint, entry, origin_of(request)))


OpenApiDocument = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "description": "An OpenAPI 3.0 document."}),
]

DESCRIBE_ALL = Operation(
    "describeAll",
    "Get this document",
    {200: answer("The document.", OpenApiDocument)},
    errors=(404,),
    parameters=(in_query("endpoint_id", "Only the calls of this endpoint at the queue."),),
)
DESCRIBE_ENDPOINT = Operation(
    "describeEndpoint",
    "Get the document of one endpoint's calls at the queue, as fal publishes it",
    {200: answer("The document.", OpenApiDocument)},
    errors=(404, 422),
    parameters=(in_query("endpoint_id", "Id of the endpoint.", required=True),),
)


# ``llms.txt``: endpoints of this installation as text, for language models that write programs.


# Without a key they tell what this repository tells anyway: the schemas of built-in endpoints.


async def llms_index(request: HttpRequest) -> Response:
    """Overview: a line for each served endpoint, and links to more.

    Without a key, endpoints of the operator's file and of the database are left out; with one,
    those that it does not allow.
    """
    context_of(request).route = "llms"
    caller = await _caller(request)
    served = (entry for entry in services_of(request).catalog if not entry.missing)
    shown = [
        entry
        for entry in served
        if (caller.allows(entry.endpoint.id) if caller is not None else _public(entry))
    ]
    return _text(_index_text(shown, origin_of(request)))


async def llms_endpoint(request: HttpRequest) -> Response:
    """Description of one endpoint, at the same path as fal's."""
    context_of(request).route = "llms.endpoint"
    endpoint_id = request.path_params["endpoint_id"]
    catalog = services_of(request).catalog
    caller = await _caller(request)
    if caller is not None:
        entry = catalog.get_listed(endpoint_id)
        caller.require_endpoint(entry.endpoint.id)
    elif (entry := catalog.find(endpoint_id)) is None or entry.missing or not _public(entry):
        # The same for what does not exist and what is not public, so that no one learns which.
        raise EndpointNotFound(
            f"There is no public description of `{endpoint_id[:200]}`. Send an API key to read the "
            "descriptions of all endpoints."
        )
    price = services_of(request).price_of(entry)
    return _text(await in_cpu_thread(endpoint_text, entry, origin_of(request), price))


async def _caller(request: HttpRequest) -> Caller | None:
    """The caller; None without a key, if that is enough. ``Unauthenticated``."""
    public = services_of(request).config.server.public_descriptions
    if public and "authorization" not in request.headers:
        return None
    return await authenticate(request)


def _public(entry: CatalogEntry) -> bool:
    return entry.origin is EntryOrigin.BUILT_IN


MARKDOWN = answer("Markdown.", str, "text/plain; charset=utf-8")

WITHOUT_KEY = (
    "Without a key it has the endpoints of the built-in catalogue only, unless "
    "DARKROOM_PUBLIC_DESCRIPTIONS is off."
)
TELL_ALL = Operation(
    "tellAll",
    "Describe the endpoints as text, for programs",
    {200: MARKDOWN},
    errors=(401, 403),
    key=False,
    description=WITHOUT_KEY,
)
TELL_ENDPOINT = Operation(
    "tellEndpoint",
    "Describe an endpoint as text: its fields, and calls that work unchanged",
    {200: MARKDOWN},
    errors=(401, 403, 404),
    key=False,
    description=WITHOUT_KEY,
    parameters=(in_path("endpoint_id", "Id of the endpoint; it contains slashes."),),
)

ROUTES = [
    DocumentedRoute("/openapi.json", full_document, {"GET": DESCRIBE_ALL}, ANY_KEY),
    DocumentedRoute(PATH, endpoint_document, {"GET": DESCRIBE_ENDPOINT}, ANY_KEY),
    # With `public_descriptions` the next two need no key.
    DocumentedRoute("/llms.txt", llms_index, {"GET": TELL_ALL}, ANY_KEY),
    DocumentedRoute(
        "/models/{endpoint_id:path}/llms.txt", llms_endpoint, {"GET": TELL_ENDPOINT}, ANY_KEY
    ),
]


def _text(text: str) -> Response:
    return PlainTextResponse(text, headers={"cache-control": "no-cache"})


def _index_text(entries: Iterable[CatalogEntry], origin: str) -> str:
    served = (entry.endpoint for entry in entries)
    endpoints = "\n".join(
        f"- [{endpoint.id}]({origin}/models/{endpoint.id}/llms.txt): {endpoint.category}. "
        + (" ".join(endpoint.description.split()) or endpoint.display_name)
        for endpoint in served
    )
    return f"""# Darkroom

> A self-hosted server of generative models that implements fal's protocol.

Call `{origin}/run/ID` to wait for the outcome, or `{origin}/queue/ID` to submit a request, with the
header `Authorization: Key id:secret`. fal's clients work when they are pointed here, as the text of
each endpoint shows. OpenAI's protocol is under `{origin}/openai/v1`, Replicate's under
`{origin}/replicate`, ComfyUI's under `{origin}/comfyui`, and tools for assistants (MCP) are at
`{origin}/mcp`.

## Endpoints

{endpoints}

## More

- [OpenAPI]({origin}/openapi.json): every call and every endpoint
- [Catalogue]({origin}/v1/models): the endpoints as JSON
"""
