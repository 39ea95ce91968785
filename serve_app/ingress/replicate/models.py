"""Models and their versions: the catalogue in Replicate's shape."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.catalog.catalog import CatalogEntry
from serve_app.ingress import query
from serve_app.ingress.body import read_body
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.openapi.parts import VERSION
from serve_app.ingress.replicate import model_ids
from serve_app.ingress.replicate.output import schemas
from serve_app.ingress.replicate.predictions import base_of
from serve_app.ingress.reply import json_reply

PAGE = 25
LONG_AGO = "1970-01-01T00:00:00+00:00"
"""Replicate tells when a version was made. The catalogue does not know."""

COG = "0.9.0"
"""Replicate tells which Cog made a version; its client reads the schema as that Cog wrote it. Since
0.3.9 a list is a list, unless it says that it is an iterator."""

MAX_QUERY_BYTES = 1000


async def account(request: HttpRequest) -> Response:
    caller = await caller_of(request)
    body = {"type": "organization", "username": caller.tenant, "name": caller.tenant}
    return json_reply({**body, "github_url": None})


async def listed(request: HttpRequest) -> Response:
    """What is served, in the catalogue's order, page by page."""
    await caller_of(request)
    served = [each for each in core_of(request).catalog if not each.missing]
    cursor = request.query_params.get("cursor")
    start = 0
    if cursor is not None:
        known = [each.endpoint.id for each in served]
        if cursor not in known:
            raise query.invalid("cursor", "should be the one of the page before", cursor)
        start = known.index(cursor) + 1
    page = served[start : start + PAGE]
    base = base_of(request)
    more = len(served) > start + PAGE
    following = f"{base}/v1/models?cursor={page[-1].endpoint.id}" if more else None
    return await _page(page, base, following)


async def searched(request: HttpRequest) -> Response:
    """Those with all words of the body in their id, name, description or category."""
    await caller_of(request)
    words = (await read_body(request, MAX_QUERY_BYTES)).decode("utf-8", "replace").lower().split()
    found = [
        each
        for each in core_of(request).catalog
        if not each.missing and all(word in _text(each) for word in words)
    ]
    return await _page(found, base_of(request), None)


async def shown(request: HttpRequest) -> Response:
    await caller_of(request)
    entry = _entry(request)
    return json_reply(await asyncio.to_thread(_model, entry, base_of(request)))


async def versions(request: HttpRequest) -> Response:
    """The one that there is."""
    await caller_of(request)
    version = await asyncio.to_thread(_version, _entry(request))
    return json_reply({"previous": None, "next": None, "results": [version]})


async def version(request: HttpRequest) -> Response:
    await caller_of(request)
    entry = model_ids.checked(_entry(request), request.path_params["version"])
    return json_reply(await asyncio.to_thread(_version, entry))


async def _page(entries: Sequence[CatalogEntry], base: str, following: str | None) -> Response:
    results = await asyncio.to_thread(lambda: [_model(each, base) for each in entries])
    return json_reply({"previous": None, "next": following, "results": results})


def _entry(request: HttpRequest) -> CatalogEntry:
    path = request.path_params
    return model_ids.listed(core_of(request), f"{path['owner']}/{path['name']}")


def _text(entry: CatalogEntry) -> str:
    each = entry.endpoint
    return " ".join((each.id, each.display_name, each.description, each.category)).lower()


def _model(entry: CatalogEntry, base: str) -> dict[str, Any]:
    """Takes milliseconds: not on the event loop."""
    endpoint = entry.endpoint
    owner, _, name = model_ids.model_id(endpoint.id).partition("/")
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
        "default_example": None,
        "latest_version": _version(entry),
        "darkroom_endpoint": endpoint.id,
        "darkroom_demo": entry.demo,
    }


def _version(entry: CatalogEntry) -> dict[str, Any]:
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
