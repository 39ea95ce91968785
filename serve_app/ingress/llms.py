"""``llms.txt``: what is served here, as text for programs that write programs."""

from __future__ import annotations

import asyncio

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serve_app.catalog.catalog import Catalog
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.endpoint_text import endpoint_text
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.origin import origin_of


async def everything(request: HttpRequest) -> Response:
    """A line for each endpoint that is served, and where the rest is told."""
    exchange_of(request).route = "llms"
    await caller_of(request)
    return _text(_whole(core_of(request).catalog, origin_of(request)))


async def one_endpoint(request: HttpRequest) -> Response:
    """At the path where fal has it."""
    exchange_of(request).route = "llms.endpoint"
    await caller_of(request)
    entry = core_of(request).catalog.listed(request.path_params["endpoint_id"])
    return _text(await asyncio.to_thread(endpoint_text, entry, origin_of(request)))


ROUTES = [
    Route("/llms.txt", everything, methods=["GET"]),
    Route("/models/{endpoint_id:path}/llms.txt", one_endpoint, methods=["GET"]),
]


def _text(text: str) -> Response:
    return PlainTextResponse(text, headers={"cache-control": "no-cache"})


def _whole(catalog: Catalog, origin: str) -> str:
    served = (each.endpoint for each in catalog if not each.missing)
    endpoints = "\n".join(
        f"- [{each.id}]({origin}/models/{each.id}/llms.txt): {each.category}. "
        + (" ".join(each.description.split()) or each.display_name)
        for each in served
    )
    return f"""# Darkroom

> A server of generative models that speaks fal's protocol, at its operator's own address.

Calls go to `{origin}/run/ID`, which waits for the outcome, or `{origin}/queue/ID`, which submits,
with the header `Authorization: Key id:secret`. fal's clients work when they are pointed here, as
the text of each endpoint shows. OpenAI's protocol is under `{origin}/openai/v1`, Replicate's under
`{origin}/replicate`, and tools for assistants (MCP) are at `{origin}/mcp`.

## Endpoints

{endpoints}

## More

- [OpenAPI]({origin}/openapi.json): every call and every endpoint
- [Catalogue]({origin}/v1/models): the endpoints as JSON
"""
