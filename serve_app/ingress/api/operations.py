"""``/v1/queue`` and manual operations. All require the scope ``operator``."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import NotFound
from serve_app.domain.operations import (
    LaneFigures,
    OpenTransaction,
    Operations,
    Pause,
    PauseKind,
    QueueEntry,
    RunningLease,
)
from serve_app.domain.request import Priority, State
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import (
    DocumentedRoute,
    Operation,
    Parameter,
    answer,
    in_path,
    in_query,
)
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import OPERATOR

MAX_REASON = 1000  # characters
MAX_PAGE = 500
MAX_PLACE = 2**63 - 1  # of PostgreSQL's bigint
PRIORITIES = {each.name.lower(): each for each in Priority if each is not Priority.REALTIME}


class EndpointPause(TypedDict):
    """State of an endpoint. `kind` is null if it is neither paused nor draining."""

    endpoint_id: str
    kind: PauseKind | None
    at: Time | None
    actor: str | None


class Lane(TypedDict):
    """Queued and running requests of a tenant in a pool."""

    pool: str
    tenant: str
    queued: int
    running: int
    oldest_s: float | None


class LeaseStatus(TypedDict):
    """Lease of a running request."""

    request_id: str
    attempt: int
    tenant: str
    endpoint: str
    pool: str
    replica_id: str
    age_s: float
    expires_in_s: float


class OldestTransaction(TypedDict):
    """Oldest open transaction of the database."""

    age_s: float
    state: str
    application: str
    pid: int


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


class QueueOverview(TypedDict):
    lanes: list[Lane]
    leases: list[LeaseStatus]
    halts: list[EndpointPause]
    oldest_transaction: OldestTransaction | None


class RequestState(TypedDict):
    request_id: str
    state: State


async def queue(request: HttpRequest) -> Response:
    """Show lanes, leases, paused endpoints, and the oldest transaction of the database."""
    operations, _ = await _admin(request, "v1.queue")
    seen = await operations.overview()
    oldest = seen.oldest_transaction
    body: QueueOverview = {
        "lanes": [_lane(each) for each in seen.lanes],
        "leases": [_lease(each) for each in seen.leases],
        "halts": [_pause(each) for each in seen.halts],
        "oldest_transaction": None if oldest is None else _transaction(oldest),
    }
    return json_reply(body)


async def waiting(request: HttpRequest) -> Response:
    """List the requests that wait, the longest wait first.

    Parameters: ``tenant``, ``endpoint_id`` (repeated, or with commas), ``limit``, ``after``.
    """
    operations, _ = await _admin(request, "v1.queue.requests")
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    found = await operations.waiting(
        tenant=query.text(request, "tenant") or None,
        endpoints=query.several(request, "endpoint_id"),
        after=query.whole(request, "after", default=0, most=MAX_PLACE),
        limit=limit + 1,
    )
    page = found[:limit]
    body: QueuePage = {
        "requests": [_waiting(each) for each in page],
        "next_after": page[-1].place if len(found) > limit else None,
    }
    return json_reply(body)


async def paused(request: HttpRequest) -> Response:
    """Pause an endpoint. Its new requests are accepted and wait."""
    operations, actor = await _admin(request, "v1.endpoint.pause")
    return json_reply(_pause(await operations.pause(_endpoint(request), actor)))


async def drained(request: HttpRequest) -> Response:
    """Drain an endpoint. New submits are refused, and queued requests are served."""
    operations, actor = await _admin(request, "v1.endpoint.drain")
    return json_reply(_pause(await operations.drain(_endpoint(request), actor)))


async def resumed(request: HttpRequest) -> Response:
    """End a pause or a drain, also of an endpoint that is no longer in the catalog."""
    operations, actor = await _admin(request, "v1.endpoint.resume")
    endpoint = request.path_params["endpoint_id"]
    if not await operations.resume(endpoint, actor):
        raise NotFound(f"{endpoint} is neither paused nor draining.")
    body: EndpointPause = {"endpoint_id": endpoint, "kind": None, "at": None, "actor": None}
    return json_reply(body)


async def requeued(request: HttpRequest) -> Response:
    """Take a running request from its replica and queue it again."""
    operations, actor = await _admin(request, "v1.request.requeue")
    return _state_reply(request, await operations.requeue(request.path_params["request_id"], actor))


async def failed(request: HttpRequest) -> Response:
    """End a request as failed, with ``?reason=`` for its owner."""
    operations, actor = await _admin(request, "v1.request.fail")
    reason = query.text(request, "reason") or ""
    if len(reason) > MAX_REASON:
        raise query.invalid("reason", f"should have at most {MAX_REASON} characters", reason)
    request_id = request.path_params["request_id"]
    return _state_reply(request, await operations.fail(request_id, actor, reason))


async def prioritised(request: HttpRequest) -> Response:
    """Change the priority of a request that waits: ``?priority=low|normal|high``."""
    operations, actor = await _admin(request, "v1.request.prioritise")
    given = query.text(request, "priority") or ""
    if given not in PRIORITIES:
        raise query.invalid("priority", f"should be one of {', '.join(PRIORITIES)}", given)
    request_id = request.path_params["request_id"]
    return _state_reply(request, await operations.prioritise(request_id, PRIORITIES[given], actor))


SEE_QUEUE = Operation(
    "getQueue",
    "Show lanes, leases and paused endpoints. Needs the scope `operator`",
    {200: answer("An overview, up to a few seconds old.", QueueOverview)},
    errors=(403,),
)


SEE_WAITING = Operation(
    "listQueuedRequests",
    "List the requests that wait, the longest wait first. Needs the scope `operator`",
    {200: answer("A page.", QueuePage)},
    errors=(403, 422),
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


def _endpoint_call(act: str, summary: str) -> Operation:
    return Operation(
        f"{act}Endpoint",
        f"{summary}. Needs the scope `operator`",
        {200: answer("The endpoint's state.", EndpointPause)},
        errors=(403, 404),
        parameters=(in_path("endpoint_id", "Its slashes are not escaped."),),
    )


def _request_call(act: str, summary: str, *parameters: Parameter) -> Operation:
    request_id = in_path("request_id", "Id of a request of any tenant.")
    return Operation(
        f"{act}Request",
        f"{summary}. Needs the scope `operator`",
        {200: answer("The request's state.", RequestState)},
        errors=(400, 403, 404, 422),
        parameters=(request_id, *parameters),
    )


PAUSE = _endpoint_call("pause", "Pause an endpoint: new requests are accepted and wait")
DRAIN = _endpoint_call("drain", "Drain an endpoint: new requests are refused, queued ones run")
RESUME = _endpoint_call("resume", "End a pause or a drain")
REQUEUE = _request_call("requeue", "Take a request from its replica and queue it again")
FAIL = _request_call(
    "fail", "End a request as failed", in_query("reason", "Message for the request's owner.")
)
PRIORITISE = _request_call(
    "prioritise",
    "Change the priority of a request that waits",
    in_query("priority", "`low`, `normal` or `high`."),
)

ROUTES = [
    DocumentedRoute("/v1/queue", queue, {"GET": SEE_QUEUE}, OPERATOR),
    DocumentedRoute("/v1/queue/requests", waiting, {"GET": SEE_WAITING}, OPERATOR),
    DocumentedRoute("/v1/endpoints/{endpoint_id:path}/pause", paused, {"PUT": PAUSE}, OPERATOR),
    DocumentedRoute("/v1/endpoints/{endpoint_id:path}/drain", drained, {"PUT": DRAIN}, OPERATOR),
    DocumentedRoute("/v1/endpoints/{endpoint_id:path}/resume", resumed, {"PUT": RESUME}, OPERATOR),
    DocumentedRoute("/v1/requests/{request_id}/requeue", requeued, {"PUT": REQUEUE}, OPERATOR),
    DocumentedRoute("/v1/requests/{request_id}/fail", failed, {"PUT": FAIL}, OPERATOR),
    DocumentedRoute(
        "/v1/requests/{request_id}/priority", prioritised, {"PUT": PRIORITISE}, OPERATOR
    ),
]


async def _admin(request: HttpRequest, route: str) -> tuple[Operations, Actor]:
    """Return the operations, and the caller."""
    context_of(request).route = route
    await authenticate(request)
    return services_of(request).queue.operations, actor_of(request)


def _endpoint(request: HttpRequest) -> str:
    """Id of an endpoint in the catalog. ``EndpointNotFound``."""
    catalog, endpoint_id = services_of(request).catalog, request.path_params["endpoint_id"]
    return (catalog.find_any(endpoint_id) or catalog.listed(endpoint_id)).endpoint.id


def _pause(pause: Pause) -> EndpointPause:
    return {
        "endpoint_id": pause.endpoint,
        "kind": pause.kind,
        "at": pause.at.isoformat(),
        "actor": pause.actor,
    }


def _lane(lane: LaneFigures) -> Lane:
    return {
        "pool": lane.pool,
        "tenant": lane.tenant,
        "queued": lane.queued,
        "running": lane.running,
        "oldest_s": lane.oldest_s,
    }


def _lease(lease: RunningLease) -> LeaseStatus:
    return {
        "request_id": lease.request_id,
        "attempt": lease.attempt,
        "tenant": lease.tenant,
        "endpoint": lease.endpoint,
        "pool": lease.pool,
        "replica_id": lease.replica_id,
        "age_s": lease.age_s,
        "expires_in_s": lease.expires_in_s,
    }


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


def _transaction(oldest: OpenTransaction) -> OldestTransaction:
    return {
        "age_s": oldest.age_s,
        "state": oldest.state,
        "application": oldest.application,
        "pid": oldest.pid,
    }


def _state_reply(request: HttpRequest, state: State) -> Response:
    body: RequestState = {"request_id": request.path_params["request_id"], "state": state}
    return json_reply(body)
