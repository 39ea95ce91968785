"""Calls whose client waits for the end of their request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import InvalidInput
from serve_app.domain.request import NewRequest, Request
from serve_app.ingress.http.context import wait_disconnected
from serve_app.ingress.http.routing import rename_locations
from serve_app.ingress.openai.errors import failure_response
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.options import parse_options
from serve_app.ingress.submission.protocol import validate_call
from serve_app.ingress.submission.rendering import ENDPOINT, final_outcome
from serve_app.ingress.submission.replay import add_replay_headers, repeat_digest
from serve_app.tenants.scopes import Caller


async def validate_request(
    request: HttpRequest,
    caller: Caller,
    endpoint_id: str,
    input: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    model: str | None,
    sent: object = None,
) -> NewRequest:
    """Request that a call submits. ``names``: as for ``renamed``, which its ``InvalidInput`` is.
    ``model``: as the call named it; None: it named none. ``sent``: by which a repeat is recognised,
    where the input has URLs of our own files, which may differ the next time."""
    try:
        options = parse_options(request, caller).naming(model)
        if sent is not None:
            digest = await repeat_digest(endpoint_id, sent, options)
            options = replace(options, repeat_digest=digest)
        return await validate_call(request, caller, endpoint_id, input, options)
    except InvalidInput as error:
        raise rename_locations(error, names) from None


async def run(
    request: HttpRequest,
    new: NewRequest,
    names: Mapping[str, str],
    reply: Callable[[Request], Awaitable[Response]],
) -> Response:
    """Store a request and wait for its end. ``reply``: the response if it succeeded."""
    services = services_of(request)
    storing, new = submission.start_run(services, new), new.without_input()
    gone = partial(wait_disconnected, request.receive)
    ended = await submission.end_of_run(services, new, storing, gone)
    if ended is None:
        return failure_response(submission.CLIENT_DISCONNECTED, names)
    if (failure := final_outcome(ended).failure) is not None:
        return add_replay_headers(request, failure_response(failure, names), new, ended)
    return with_endpoint(request, await reply(ended), new, ended)


def with_endpoint(
    request: HttpRequest, reply: Response, new: NewRequest, stored: Request
) -> Response:
    """Add the endpoint to ``reply``, and the id of the stored request."""
    reply.headers[ENDPOINT] = stored.runs_at
    return add_replay_headers(request, reply, new, stored)
