"""``/v1/queue`` and manual operations. All require the scope ``operator``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from typing_extensions import TypedDict

from serve_app.domain.errors import NotFound
from serve_app.domain.operations import (
    LaneFigures,
    OpenTransaction,
    Pause,
    PauseKind,
    QueueEntry,
    RunningLease,
)
from serve_app.domain.request import Priority, State
from serve_app.ingress.http import query
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.resources.calls import Call, Calls, JsonCalls, Special
from serve_app.ingress.services.services import Services
from serve_app.resources.declaration import Owner, Resource
from serve_app.tenants.scopes import OPERATOR

MAX_REASON = 1000  # characters
MAX_PAGE = 500
MAX_PLACE = 2**63 - 1  # of PostgreSQL's bigint
PRIORITIES = {level.name.lower(): level for level in Priority if level is not Priority.REALTIME}


@dataclass(frozen=True, slots=True)
class EndpointPause:
    """State of an endpoint. `kind` is null if it is neither paused nor draining."""

    endpoint_id: str
    kind: PauseKind | None
    at: datetime | None
    actor: str | None


class WaitingItem(TypedDict):
    """Request that waits, without its input."""

    request_id: str
    tenant: str
    endpoint_id: str
    pool: str
    priority: str
    attempt: int
    created_at: Time


class QueuePage(TypedDict):
    requests: list[WaitingItem]
    next_after: int | None


@dataclass(frozen=True, slots=True)
class QueueOverview:
    lanes: Sequence[LaneFigures]
    leases: Sequence[RunningLease]
    halts: Sequence[EndpointPause]
    oldest_transaction: OpenTransaction | None


@dataclass(frozen=True, slots=True)
class RequestState:
    request_id: str
    state: State


ENDPOINTS = Resource(
    name="endpoint",
    path="/v1/endpoints",
    model=EndpointPause,
    key="endpoint_id",
    parameter="endpoint_id",
    key_description="Its slashes are not escaped.",
    key_has_slashes=True,
    scope=OPERATOR,
    owner=Owner.INSTALLATION,
)
REQUESTS = Resource(
    name="request",
    path="/v1/requests",
    model=RequestState,
    key="request_id",
    parameter="request_id",
    key_description="Id of a request of any tenant.",
    scope=OPERATOR,
    owner=Owner.INSTALLATION,
)
calls, endpoints, requests = JsonCalls(), Calls(ENDPOINTS), Calls(REQUESTS)


@calls.call("/v1/queue", "getQueue", "Show lanes, leases and paused endpoints", OPERATOR)
async def queue(call: Call) -> QueueOverview:
    """Also the oldest transaction of the database."""
    seen = await call.services.queue.operations.overview()
    halts = [_pause(halt) for halt in seen.halts]
    return QueueOverview(seen.lanes, seen.leases, halts, seen.oldest_transaction)


@calls.call(
    "/v1/queue/requests",
    "listQueuedRequests",
    "List the requests that wait, the longest wait first",
    OPERATOR,
    errors=(422,),
    parameters=(
        in_query("tenant", "Only requests of this tenant."),
        in_query(
            "endpoint_id",
            "Only requests of these endpoints; repeated or separated by commas.",
            list[str],
        ),
        in_query("after", "`next_after` of the previous page.", int),
        in_query("limit", "1 to 500; default 50.", int),
    ),
)
async def waiting(call: Call) -> QueuePage:
    request = call.request
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    entries = await call.services.queue.operations.waiting(
        tenant=query.text(request, "tenant") or None,
        endpoints=query.several(request, "endpoint_id"),
        after=query.whole_number(request, "after", default=0, most=MAX_PLACE),
        limit=limit + 1,
    )
    page = entries[:limit]
    return {
        "requests": [_waiting(entry) for entry in page],
        "next_after": page[-1].place if len(entries) > limit else None,
    }


@endpoints.act("pause", "Pause an endpoint: new requests are accepted and wait")
async def pause(call: Call, endpoint_id: str, _: None) -> EndpointPause:
    endpoint = _in_catalog(call.services, endpoint_id)
    return _pause(await call.services.queue.operations.pause(endpoint, call.actor))


@endpoints.act("drain", "Drain an endpoint: new requests are refused, queued ones run")
async def drain(call: Call, endpoint_id: str, _: None) -> EndpointPause:
    endpoint = _in_catalog(call.services, endpoint_id)
    return _pause(await call.services.queue.operations.drain(endpoint, call.actor))


@endpoints.act("resume", "End a pause or a drain")
async def resume(call: Call, endpoint_id: str, _: None) -> EndpointPause:
    """Also of an endpoint that is no longer in the catalog."""
    if not await call.services.queue.operations.resume(endpoint_id, call.actor):
        raise NotFound(f"{endpoint_id} is neither paused nor draining.")
    return EndpointPause(endpoint_id, None, None, None)


@requests.act(
    "requeue",
    "Take a running request from its replica and queue it again",
    special=Special(errors=(400,)),
)
async def requeue(call: Call, request_id: str, _: None) -> RequestState:
    operations = call.services.queue.operations
    return RequestState(request_id, await operations.requeue(request_id, call.actor))


@requests.act(
    "fail",
    "End a request as failed",
    special=Special(
        errors=(400,), parameters=(in_query("reason", "Message for the request's owner."),)
    ),
)
async def fail(call: Call, request_id: str, _: None) -> RequestState:
    reason = query.text(call.request, "reason") or ""
    if len(reason) > MAX_REASON:
        raise query.invalid("reason", f"should have at most {MAX_REASON} characters", reason)
    operations = call.services.queue.operations
    return RequestState(request_id, await operations.fail(request_id, call.actor, reason))


@requests.act(
    "prioritise",
    "Change the priority of a request that waits",
    special=Special(
        errors=(400,), parameters=(in_query("priority", "`low`, `normal` or `high`."),)
    ),
    part="priority",
)
async def prioritise(call: Call, request_id: str, _: None) -> RequestState:
    priority = query.text(call.request, "priority") or ""
    if priority not in PRIORITIES:
        raise query.invalid("priority", f"should be one of {', '.join(PRIORITIES)}", priority)
    operations = call.services.queue.operations
    state = await operations.prioritise(request_id, PRIORITIES[priority], call.actor)
    return RequestState(request_id, state)


ROUTES = [*calls.routes, *endpoints.routes, *requests.routes]


def _in_catalog(services: Services, endpoint_id: str) -> str:
    """Id of an endpoint in the catalog. ``EndpointNotFound``."""
    catalog = services.catalog
    return (catalog.find_any(endpoint_id) or catalog.get_listed(endpoint_id)).endpoint.id


def _pause(pause: Pause) -> EndpointPause:
    return EndpointPause(pause.endpoint, pause.kind, pause.at, pause.actor)


def _waiting(request: QueueEntry) -> WaitingItem:
    return {
        "request_id": request.request_id,
        "tenant": request.tenant,
        "endpoint_id": request.endpoint,
        "pool": request.pool,
        "priority": request.priority.name.lower(),
        "attempt": request.attempt,
        "created_at": request.created_at.isoformat(),
    }
