"""fal's two ways in: ``run`` answers with the output, ``submit`` with where to ask for it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import Cancelled, FieldProblem, InvalidInput, Overloaded
from serve_app.domain.outcome import Failure
from serve_app.domain.request import NewRequest
from serve_app.ingress import submission
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.failure import failure_reply
from serve_app.ingress.fal.headers import wishes_of
from serve_app.ingress.fal.output import outcome_reply
from serve_app.ingress.fal.paths import request_urls
from serve_app.ingress.origin import origin_of
from serve_app.ingress.reply import json_reply

WENT_AWAY = Failure(Cancelled.code, "The client went away before the end.", retryable=False)


async def run(request: HttpRequest, endpoint_id: str) -> Response:
    """``POST /{endpoint}``: 200 with the bare output, or the failure. Hanging up cancels."""
    core = core_of(request)
    exchange_of(request).route = "fal.run"
    new, origin = await _accept(request, core, endpoint_id)
    ended = await submission.run(core, new, lambda: _gone(request))
    if ended is None:
        return failure_reply(WENT_AWAY)
    return await outcome_reply(ended, core.storage, origin)


async def submit(request: HttpRequest, endpoint_id: str, prefix: str) -> Response:
    """``POST /queue/{endpoint}``: 200 once the request is stored."""
    core = core_of(request)
    exchange_of(request).route = "fal.submit"
    new, origin = await _accept(request, core, endpoint_id)
    await _refuse_long_queue(request, core, new.pool)
    stored = await submission.submit(core, new)
    waiting = await core.queue.waiting(stored)
    return json_reply(
        {
            "status": "IN_QUEUE",
            "request_id": stored.id,
            "gateway_request_id": stored.id,
            **request_urls(origin + prefix, endpoint_id, stored.id),
            "queue_position": waiting.position,
            "logs": None,
            "metrics": {},
            "darkroom": {"reason": waiting.reason.value, "detail": waiting.detail},
        }
    )


async def _accept(request: HttpRequest, core: Core, endpoint_id: str) -> tuple[NewRequest, str]:
    """And the origin of the URLs to hand out."""
    caller = await caller_of(request)
    origin = origin_of(request)  # may be refused, and then nothing is to be stored
    core.catalog.get(endpoint_id)  # before the body: a wrong id is the likelier mistake
    if "fal_webhook" in request.query_params:
        raise _no_webhooks()
    wishes = wishes_of(request, caller)
    body = await read_json(request, core.config.max_body_bytes)
    new = await submission.accept(
        core,
        request_id=exchange_of(request).request_id,
        tenant=caller.tenant,
        endpoint_id=endpoint_id,
        body=body,
        priority=wishes.priority,
        start_within_s=wishes.start_within_s,
        alone=wishes.deterministic,
        warnings=wishes.warnings,
    )
    return new, origin


async def _refuse_long_queue(request: HttpRequest, core: Core, pool: str) -> None:
    """``fal_max_queue_length=N``: not when N or more wait already."""
    given = request.query_params.get("fal_max_queue_length")
    if given is None:
        return
    if not (given.isascii() and given.isdecimal()):
        raise _invalid_query("fal_max_queue_length", "should be a whole number", given)
    demand = (await core.queue.demand()).get(pool)
    queued = demand.queued if demand else 0
    if queued >= int(given):
        raise Overloaded(f"{queued} requests are waiting, and fal_max_queue_length allows {given}.")


async def _gone(request: HttpRequest) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _no_webhooks() -> InvalidInput:
    message = "Webhooks are not supported yet: submit without `fal_webhook` and ask for the status"
    problem = FieldProblem(("query", "fal_webhook"), message, "feature_not_supported")
    return InvalidInput(f"{message}.", (problem,))


def _invalid_query(name: str, what: str, value: Any) -> InvalidInput:
    problem = FieldProblem(("query", name), f"{name} {what}", "value_error", None, value)
    return InvalidInput(f"The query parameter {name} {what}.", (problem,))
