"""fal's call that deletes what a request was given and what it made."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.ingress import deletion
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.origin import file_url, origin_of
from serve_app.ingress.reply import json_reply


async def deleted(request: HttpRequest) -> Response:
    """The URL of each file, and why it is still there, if it is. Here the request goes as well."""
    exchange_of(request).route = "fal.payloads.delete"
    origin = origin_of(request)
    files = await deletion.delete(request)
    results = [{"link": file_url(origin, key), "exception": why} for key, why in files.items()]
    return json_reply({"cdn_delete_results": results})


ROUTES = [Route("/v1/models/requests/{request_id}/payloads", deleted, methods=["DELETE"])]
