"""Steps that the calls of several protocols have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import NotFinished, RequestNotFound
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Request
from serve_app.domain.sharing.admission import end_admission
from serve_app.ingress.http.auth import actor_of
from serve_app.ingress.http.context import context_of
from serve_app.ingress.services import request_ids
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.options import SubmitOptions, parse_options
from serve_app.tenants.scopes import Caller

CANCEL_S = 2.0
"""Longest wait in seconds of a cancel for a running request, which stops at its next step."""


async def validate_call(
    request: HttpRequest,
    caller: Caller,
    endpoint_id: str,
    body: object,
    options: SubmitOptions | None = None,
) -> NewRequest:
    """Validate the request that a call submits. ``options``: those of its headers, if it has no
    others. Errors: see ``submission.validate``."""
    return await submission.validate(
        services_of(request),
        caller,
        endpoint_id,
        body,
        options or parse_options(request, caller),
        request_id=context_of(request).request_id,
    )


async def find_request(queue: Queue, tenant: str, request_id: str, what: str) -> Request:
    """Request of a tenant. ``RequestNotFound`` has the same message for ids of other tenants,
    unknown ids and invalid ids: there is no ``what``."""
    unknown = RequestNotFound(f"There is no {what}.")
    if not request_ids.valid(request_id):
        raise unknown
    try:
        return await queue.get(tenant, request_id)
    except RequestNotFound:
        raise unknown from None


async def cancel(call: HttpRequest, request: Request) -> Request:
    """Cancel a request. Return it at its end, or as it is after ``CANCEL_S``."""
    queue = services_of(call).queue
    await queue.cancel(request.tenant, request.id, actor_of(call))
    end_admission()
    return await queue.wait(request.tenant, request.id, CANCEL_S)


async def require_ended(queue: Queue, request: Request, otherwise: str) -> Request:
    """The request after its end. ``NotFinished`` says ``otherwise``."""
    if not request.state.final:  # another ingress replica may just have said that it has ended
        request = await queue.current(request.tenant, request.id)
    if not request.state.final:
        raise NotFinished(otherwise)
    return request


def when_new(
    new: NewRequest, follow: Callable[[Request], None], storing: asyncio.Task[Request]
) -> None:
    """Callback of ``storing``: follow the request, unless it is a repeat of an older one."""
    if storing.cancelled() or storing.exception() is not None:
        return
    if (stored := storing.result()).id == new.id:
        follow(stored)
