"""``/v1/events``: changes of all requests of a tenant and of the replicas (server-sent events).

An event ``requests`` says which requests are new, have another state, or are gone (``state`` is
null); with ``?expand=request`` also as ``/v1/requests`` lists them. It is a hint to look again, not
a log: of several changes of a request it has the latest, and a client that was away gets an event
with ``complete: false`` in place of what it missed. An event ``replicas`` says that some replica
changed its stage or its weights, so that answers about waiting and about models may differ now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Queue
from serve_app.domain.request import ChangedRequest, Changes
from serve_app.ingress.api.events import KEEP_ALIVE_S, RECONNECT_MS
from serve_app.ingress.api.requests import RequestSummary, summaries
from serve_app.ingress.http import query, sse
from serve_app.ingress.http.auth import authenticate, while_valid
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_query
from serve_app.ingress.services.replica_changes import ReplicaChanges
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import READ, Caller

PAUSE_S = 0.25
"""Least time between two events, in which changes are collected."""

LOOK_S = 1.0
"""How often the replicas are looked at."""

MAX_EXPANDED = 20
"""Most requests that an event has as they are listed. One with more is a reason to list them."""

REQUEST = "request"
"""Value of ``expand``."""

UNKNOWN = Changes((), complete=False)

Expand = Callable[[Sequence[str]], Awaitable[Mapping[str, RequestSummary]]]


async def follow(request: HttpRequest) -> Response:
    context_of(request).route = "v1.events"
    caller = await authenticate(request)
    services = services_of(request)
    expand = None
    if (what := request.query_params.get("expand")) is not None:
        if what != REQUEST:
            raise query.invalid("expand", f"should be {REQUEST}", what)

        async def expand(ids: Sequence[str]) -> Mapping[str, RequestSummary]:
            async with services.admission.turn(caller.tenant):
                return await summaries(request, caller.tenant, ids)

    events = stream(services.queue, services.replica_changes, caller, expand=expand)
    return sse.stream_reply(while_valid(request, events))


async def stream(
    queue: Queue,
    replicas: ReplicaChanges,
    caller: Caller,
    keep_alive_s: float = KEEP_ALIVE_S,
    expand: Expand | None = None,
) -> AsyncGenerator[bytes]:
    """Events until the client disconnects."""
    yield b"retry: %d\n\n" % RECONNECT_MS
    with queue.follow(caller.tenant) as changes:
        count, quiet_s = await replicas.count(), 0.0
        yield await _event(UNKNOWN, caller, expand)
        while True:
            wait_s = min(LOOK_S, keep_alive_s)
            events = await _event(await changes.next(wait_s), caller, expand)
            if (now := await replicas.count()) != count:
                count = now
                events += sse.json_event({}, event="replicas")
            quiet_s = 0.0 if events else quiet_s + wait_s
            if quiet_s >= keep_alive_s:
                events, quiet_s = sse.NOTHING_NEW, 0.0
            if events:
                yield events
                await asyncio.sleep(PAUSE_S)


async def _event(changes: Changes, caller: Caller, expand: Expand | None) -> bytes:
    """Event of what the caller may see; empty if that is nothing."""
    visible = [request for request in changes.requests if caller.allows(request.endpoint)]
    if not visible and changes.complete:
        return b""
    listed = {} if expand is None else await _expanded(visible, expand)
    requests: list[dict[str, Any]] = [
        {
            "request_id": request.id,
            "endpoint_id": request.endpoint,
            "state": request.state,
            **({REQUEST: listed[request.id]} if request.id in listed else {}),
        }
        for request in visible
    ]
    return sse.json_event({"requests": requests, "complete": changes.complete}, event="requests")


async def _expanded(
    changed: Sequence[ChangedRequest], expand: Expand
) -> Mapping[str, RequestSummary]:
    """Summaries of those that exist; empty if there are too many, or while the database is away."""
    ids = [request.id for request in changed if request.state is not None]
    if not ids or len(ids) > MAX_EXPANDED:
        return {}
    try:
        return await expand(ids)
    except DarkroomError:
        return {}


ROUTES = [
    DocumentedRoute(
        "/v1/events",
        follow,
        {
            "GET": Operation(
                "followRequests",
                "Stream the changes of all requests of the tenant: which are new, have another "
                "state or are gone. `complete: false`: there may be others, so list them again. "
                "The event `replicas` says that replicas or their weights changed",
                {200: answer("Server-sent events.", str, sse.MEDIA_TYPE)},
                errors=(422,),
                parameters=(
                    in_query(
                        "expand",
                        "`request`: add each changed request as `/v1/requests` lists it, in the "
                        f"field `request`. An event with more than {MAX_EXPANDED} has none.",
                    ),
                ),
            )
        },
        READ,
    ),
]
