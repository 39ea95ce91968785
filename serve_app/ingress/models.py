"""``/v1/models``: the catalogue in fal's shape."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.catalog import CatalogEntry
from serve_app.ingress import query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.openapi.document import of_endpoint
from serve_app.ingress.origin import origin_of
from serve_app.ingress.reply import json_reply

MAX_PAGE = 100
OPENAPI = "openapi-3.0"
ACTIVE, INACTIVE = "active", "inactive"
STATUSES = (ACTIVE, INACTIVE, "deprecated")  # the last is fal's: nothing here is


async def models(request: HttpRequest) -> Response:
    """Endpoints in the catalogue's order, filtered by ``endpoint_id`` (may be repeated, or several
    with commas), ``q``, ``category`` and ``status``; by pages of ``limit`` after ``cursor``.
    ``expand=openapi-3.0`` adds each one's description."""
    exchange_of(request).route = "v1.models"
    await caller_of(request)
    core = core_of(request)
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    found = _after(request, [each for each in core.catalog if _wanted(request, each)])
    page = found[:limit]
    origin = origin_of(request)
    listed = [_model(each, origin) for each in page]
    if _expand(request):
        await asyncio.to_thread(_describe, listed, page, origin)
    more = len(found) > limit
    return json_reply(
        {
            "models": listed,
            "next_cursor": page[-1].endpoint.id if more else None,
            "has_more": more,
        }
    )


ROUTES = [Route("/v1/models", models, methods=["GET"])]


def _wanted(request: HttpRequest, entry: CatalogEntry) -> bool:
    asked, endpoint = request.query_params, entry.endpoint
    ids = query.several(request, "endpoint_id")
    status = asked.get("status")
    if status is not None and status not in STATUSES:
        raise query.invalid("status", f"should be one of {', '.join(STATUSES)}", status)
    text = " ".join((endpoint.id, endpoint.display_name, endpoint.description, endpoint.category))
    return (
        (not ids or endpoint.id in ids)
        and asked.get("category", endpoint.category) == endpoint.category
        and status in (None, _status(entry))
        and all(word in text.lower() for word in asked.get("q", "").lower().split())
    )


def _after(request: HttpRequest, found: list[CatalogEntry]) -> list[CatalogEntry]:
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return found
    ids = [entry.endpoint.id for entry in found]
    if cursor not in ids:
        raise query.invalid("cursor", "should be the next_cursor of the page before", cursor)
    return found[ids.index(cursor) + 1 :]


def _expand(request: HttpRequest) -> bool:
    for given in request.query_params.getlist("expand"):
        if given != OPENAPI:
            raise query.invalid("expand", f"should be {OPENAPI}", given)
    return "expand" in request.query_params


def _status(entry: CatalogEntry) -> str:
    return INACTIVE if entry.missing else ACTIVE


def _describe(listed: list[dict[str, Any]], page: list[CatalogEntry], origin: str) -> None:
    """Milliseconds for each: not on the event loop."""
    for model, entry in zip(listed, page, strict=True):
        model["openapi"] = of_endpoint(entry, origin)


def _model(entry: CatalogEntry, origin: str) -> dict[str, Any]:
    endpoint = entry.endpoint
    return {
        "endpoint_id": endpoint.id,
        "metadata": {
            "display_name": endpoint.display_name or endpoint.id,
            "category": endpoint.category,
            "description": endpoint.description,
            "status": _status(entry),
            "tags": [],
            "license": endpoint.licence,
            "model_url": f"{origin}/run/{endpoint.id}",
        },
        "darkroom_demo": entry.demo,
        "darkroom": {
            "served": not entry.missing,
            "reason": entry.missing or None,
            "family": endpoint.family,
            "weights": {
                "source": endpoint.weights.source or None,
                "revision": endpoint.weights.revision,
            },
            "recipes": [asdict(each) for each in endpoint.recipes],
        },
    }
