"""Paths of Darkroom's own: what is served, what was asked, and how it stands."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound
from serve_app.ingress import (
    analytics,
    deletion,
    description,
    ended,
    keys,
    llms,
    models,
    operations,
    previews,
    pricing,
    requests,
    usage,
    webhook_calls,
)
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.tenants.keys import ADMIN


async def status(request: HttpRequest) -> Response:
    """Pools with their queue, and replicas. Takes the scope ``admin``: it is about all tenants."""
    exchange_of(request).route = "v1.status"
    await caller_of(request, ADMIN)
    core = core_of(request)
    demand = await core.queue.demand()
    replicas = list(await core.replicas())
    return json_reply(
        {
            "pools": {name: asdict(now) for name, now in sorted(demand.items())},
            "replicas": replicas,
            "unplaceable": dict(await core.unplaceable({one["pool"] for one in replicas})),
            "endpoints": len(list(core.catalog)),
            "demo": any(entry.demo for entry in core.catalog),
            "checks": await core.readiness.report(),
        }
    )


async def unknown(request: HttpRequest) -> Response:
    raise NotFound(f"There is no {request.url.path}.")


ROUTES = [
    *requests.ROUTES,
    *deletion.ROUTES,
    *operations.ROUTES,
    *previews.ROUTES,
    *webhook_calls.ROUTES,
    *models.ROUTES,
    *usage.ROUTES,
    *analytics.ROUTES,
    *pricing.ROUTES,
    *ended.ROUTES,
    *keys.ROUTES,
    *description.ROUTES,
    *llms.ROUTES,
    Route("/v1/status", status, methods=["GET"]),
    Route("/v1/{rest:path}", unknown),
]
