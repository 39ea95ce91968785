"""Where the OpenAPI documents are."""

from __future__ import annotations

import asyncio

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.ingress import query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.openapi.document import PATH, of_endpoint, whole
from serve_app.ingress.origin import origin_of
from serve_app.ingress.reply import json_reply


async def everything(request: HttpRequest) -> Response:
    """Every call and every endpoint of this installation."""
    exchange_of(request).route = "openapi"
    await caller_of(request)
    # It takes tens of milliseconds to put together, which all other calls would wait for.
    document = await asyncio.to_thread(whole, core_of(request).catalog, origin_of(request))
    return json_reply(document)


async def one_endpoint(request: HttpRequest) -> Response:
    """``?endpoint_id=``: at the path where fal has it."""
    exchange_of(request).route = "openapi.endpoint"
    await caller_of(request)
    endpoint_id = request.query_params.get("endpoint_id")
    if endpoint_id is None:
        raise query.invalid("endpoint_id", "should be an endpoint's id", "")
    entry = core_of(request).catalog.listed(endpoint_id)
    return json_reply(of_endpoint(entry, origin_of(request)))


ROUTES = [
    Route("/openapi.json", everything, methods=["GET"]),
    Route(PATH, one_endpoint, methods=["GET"]),
]
