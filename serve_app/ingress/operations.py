"""``/v1/queue``, ``/v1/audit`` and the acts by hand. All take the scope ``admin``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import NotFound
from serve_app.domain.operations import Halt, Operations
from serve_app.domain.request import State
from serve_app.ingress import query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.tenants.keys import ADMIN

MAX_PAGE = 500
MAX_REASON = 1000  # characters


async def queue(request: HttpRequest) -> Response:
    """Lanes, leases, halted endpoints, and the oldest transaction of the database."""
    operations, _ = await _admin(request, "v1.queue")
    seen = await operations.overview()
    oldest = seen.oldest_transaction
    return json_reply(
        {
            "lanes": [asdict(each) for each in seen.lanes],
            "leases": [asdict(each) for each in seen.leases],
            "halts": [_halt(each) for each in seen.halts],
            "oldest_transaction": None if oldest is None else asdict(oldest),
        }
    )


async def paused(request: HttpRequest) -> Response:
    """From now on its requests are accepted, and wait."""
    operations, actor = await _admin(request, "v1.endpoint.pause")
    return json_reply(_halt(await operations.pause(_endpoint(request), actor)))


async def drained(request: HttpRequest) -> Response:
    """From now on its submits are refused; what waits is served."""
    operations, actor = await _admin(request, "v1.endpoint.drain")
    return json_reply(_halt(await operations.drain(_endpoint(request), actor)))


async def resumed(request: HttpRequest) -> Response:
    """End either, also for an endpoint that is in the catalogue no more."""
    operations, actor = await _admin(request, "v1.endpoint.resume")
    endpoint = request.path_params["endpoint_id"]
    if not await operations.resume(endpoint, actor):
        raise NotFound(f"{endpoint} is neither paused nor draining.")
    return json_reply({"endpoint_id": endpoint, "kind": None, "at": None, "actor": None})


async def requeued(request: HttpRequest) -> Response:
    """Take a running request from its replica and queue it again."""
    operations, actor = await _admin(request, "v1.request.requeue")
    return _standing(request, await operations.requeue(request.path_params["request_id"], actor))


async def failed(request: HttpRequest) -> Response:
    """End a request as failed, with ``?reason=`` for its owner."""
    operations, actor = await _admin(request, "v1.request.fail")
    reason = query.text(request, "reason") or ""
    if len(reason) > MAX_REASON:
        raise query.invalid("reason", f"should have at most {MAX_REASON} characters", reason)
    request_id = request.path_params["request_id"]
    return _standing(request, await operations.fail(request_id, actor, reason))


async def audit(request: HttpRequest) -> Response:
    """What was done by hand, newest first: ``?limit=50&before=<id>``."""
    operations, _ = await _admin(request, "v1.audit")
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    before = query.whole(request, "before", default=0, most=999_999_999)
    page = await operations.audit(before or None, limit + 1)
    shown = page[:limit]
    return json_reply(
        {
            "acts": [asdict(each) | {"at": each.at.isoformat()} for each in shown],
            "next_before": shown[-1].id if len(page) > limit else None,
        }
    )


ROUTES = [
    Route("/v1/queue", queue, methods=["GET"]),
    Route("/v1/audit", audit, methods=["GET"]),
    Route("/v1/endpoints/{endpoint_id:path}/pause", paused, methods=["PUT"]),
    Route("/v1/endpoints/{endpoint_id:path}/drain", drained, methods=["PUT"]),
    Route("/v1/endpoints/{endpoint_id:path}/resume", resumed, methods=["PUT"]),
    Route("/v1/requests/{request_id}/requeue", requeued, methods=["PUT"]),
    Route("/v1/requests/{request_id}/fail", failed, methods=["PUT"]),
]


async def _admin(request: HttpRequest, route: str) -> tuple[Operations, str]:
    """What acts, and for whom."""
    exchange_of(request).route = route
    caller = await caller_of(request, ADMIN)
    return core_of(request).queue.operations, caller.key_id


def _endpoint(request: HttpRequest) -> str:
    """One of the catalogue; ``EndpointNotFound``."""
    return core_of(request).catalog.listed(request.path_params["endpoint_id"]).endpoint.id


def _halt(halt: Halt) -> Mapping[str, Any]:
    return {
        "endpoint_id": halt.endpoint,
        "kind": halt.kind.value,
        "at": halt.at.isoformat(),
        "actor": halt.actor,
    }


def _standing(request: HttpRequest, state: State) -> Response:
    return json_reply({"request_id": request.path_params["request_id"], "state": state.value})
