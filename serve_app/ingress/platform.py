"""``/v1``: what is served, what was asked, and how it stands. For the command line and for
dashboards."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import FieldProblem, InvalidInput, NotFound
from serve_app.domain.request import Request, State
from serve_app.ingress import ids
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.tenants.keys import ADMIN

MAX_PAGE = 500


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


async def requests(request: HttpRequest) -> Response:
    """The tenant's requests, newest first: ``?limit=50&before=<id>&state=queued&state=running``."""
    exchange_of(request).route = "v1.requests"
    caller = await caller_of(request)
    limit = _limit(request.query_params.get("limit", "50"))
    states = tuple(_state(each) for each in request.query_params.getlist("state"))
    before = request.query_params.get("before")
    if before is not None and not ids.valid(before):
        raise _invalid("before", "should be the id of a request", before)
    page = await core_of(request).queue.page(
        caller.tenant, states=states, before=before, limit=limit + 1
    )
    shown = page[:limit]
    return json_reply(
        {
            "requests": [_summary(each) for each in shown],
            "next_before": shown[-1].id if len(page) > limit else None,
        }
    )


async def status(request: HttpRequest) -> Response:
    """Pools with their queue, and replicas. Takes the scope ``admin``: it shows all tenants'
    load."""
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
    Route("/v1/models", models, methods=["GET"]),
    Route("/v1/requests", requests, methods=["GET"]),
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


def _summary(request: Request) -> dict[str, Any]:
    failure = request.outcome.failure if request.outcome else None
    return {
        "request_id": request.id,
        "endpoint_id": request.endpoint,
        "state": request.state.value,
        "priority": request.priority.name.lower(),
        "attempt": request.attempt,
        "failures": request.failures,
        "created_at": _iso(request.created_at),
        "started_at": _iso(request.started_at),
        "finished_at": _iso(request.finished_at),
        "replica_id": request.replica_id,
        "run_s": request.outcome.usage.run_s if request.outcome else None,
        "error": failure.message if failure else None,
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _limit(given: str) -> int:
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:9]) <= MAX_PAGE):
        raise _invalid("limit", f"should be from 1 to {MAX_PAGE}", given)
    return int(given)


def _state(given: str) -> State:
    try:
        return State(given)
    except ValueError:
        raise _invalid("state", f"should be one of {', '.join(State)}", given) from None


def _invalid(name: str, what: str, value: str) -> InvalidInput:
    problem = FieldProblem(("query", name), f"{name} {what}", "value_error", None, value)
    return InvalidInput(f"The query parameter {name} {what}.", (problem,))
