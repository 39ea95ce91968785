"""``/v1``: what is served, what was asked, and how it stands."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import NotFound
from serve_app.ingress import requests
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.tenants.keys import ADMIN


async def models(request: HttpRequest) -> Response:
    """fal's list of models. ``darkroom_demo`` says which are our own tiny stand-ins."""
    exchange_of(request).route = "v1.models"
    await caller_of(request)
    wanted = request.query_params.getlist("endpoint_id")
    listed = [
        _model(entry)
        for entry in core_of(request).catalog
        if not wanted or entry.endpoint.id in wanted
    ]
    return json_reply({"models": listed, "next_cursor": None, "has_more": False})


async def status(request: HttpRequest) -> Response:
    """Pools with their queue, and replicas. Takes the scope ``admin``: it is about all tenants."""
    exchange_of(request).route = "v1.status"
    await caller_of(request, ADMIN)
    core = core_of(request)
    demand = await core.queue.demand()
    return json_reply(
        {
            "pools": {name: asdict(now) for name, now in sorted(demand.items())},
            "replicas": list(await core.replicas()),
            "endpoints": len(list(core.catalog)),
            "demo": any(entry.demo for entry in core.catalog),
            "checks": await core.readiness.report(),
        }
    )


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(f"There is no {request.url.path}.")


ROUTES = [
    *requests.ROUTES,
    Route("/v1/models", models, methods=["GET"]),
    Route("/v1/status", status, methods=["GET"]),
    Route("/v1/{rest:path}", unknown),
]


def _model(entry: CatalogEntry) -> dict[str, Any]:
    endpoint = entry.endpoint
    return {
        "endpoint_id": endpoint.id,
        "metadata": {
            "display_name": endpoint.display_name or endpoint.id,
            "category": endpoint.category,
            "description": endpoint.description,
            "status": "active",
            "tags": [],
            "license": endpoint.licence,
        },
        "darkroom_demo": entry.demo,
    }
