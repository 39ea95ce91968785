"""fal's submits: ``run`` answers with the output, ``submit`` with the URLs of the request."""

from __future__ import annotations

import asyncio
from functools import partial

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Request
from serve_app.ingress.fal import webhooks
from serve_app.ingress.fal.rewriting import request_base
from serve_app.ingress.fal.status import QueueStatus
from serve_app.ingress.fal.webhooks import parse_webhook
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import cost_of_json, parse_body, read_body
from serve_app.ingress.http.context import context_of, wait_disconnected
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.paths import request_urls
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.failures import failure_reply
from serve_app.ingress.submission.options import parse_options
from serve_app.ingress.submission.protocol import validate_call, when_new
from serve_app.ingress.submission.rendering import outcome_reply
from serve_app.ingress.submission.replay import ConfirmedResponse, add_replay_headers, notice_loss
from serve_app.ingress.submission.status import waiting_body
from serve_app.tenants.scopes import SUBMIT, Caller

MAX_DIGITS = 18
"""Most digits of a number in the query. Python refuses to read thousands of digits."""


async def run(request: HttpRequest, endpoint_id: str) -> Response:
    """``POST /{endpoint}``: 200 with the bare output, or the failure. Disconnecting cancels."""
    services = services_of(request)
    context_of(request).route = "fal.run"
    webhooks.reject_parameter(request)
    caller = await authenticate(request, SUBMIT)
    new, origin = await read_call(request, services, endpoint_id, caller)
    storing, new = submission.start_run(services, new), new.without_input()
    gone = partial(wait_disconnected, request.receive)
    ended = await submission.end_of_run(services, new, storing, gone)
    if ended is None:
        return failure_reply(submission.CLIENT_DISCONNECTED)
    reply = await outcome_reply(ended, services.files, origin)
    return add_replay_headers(request, reply, new, ended)


async def submit(request: HttpRequest, endpoint_id: str, prefix: str) -> Response:
    """``POST /queue/{endpoint}``: 200 once the request is stored."""
    services = services_of(request)
    context_of(request).route = "fal.submit"
    caller = await authenticate(request, SUBMIT)
    replay_key = caller.key_id if caller.replay_undelivered else None
    base, with_progress = request_base(request, prefix), webhooks.wants_progress(request)
    new, origin = await read_call(request, services, endpoint_id, caller, replay_key)
    new = webhooks.mark_webhook(services.webhooks, new) if with_progress else new
    storing = submission.submit(services, new, _longest_queue(request))
    if with_progress:
        storing.add_done_callback(partial(when_new, new, partial(_follow, services, new, origin)))
    if new.replay_key is None:
        return await _submit_reply(request, services.queue, new, storing, base)
    with notice_loss(services, new, storing):
        reply = await _submit_reply(request, services.queue, new, storing, base)
    return ConfirmedResponse(reply, services, new, storing)


def _follow(services: Services, new: NewRequest, origin: str, stored: Request) -> None:
    if new.webhook is not None:
        webhooks.follow(services, stored, new.webhook.url, origin)


async def _submit_reply(
    request: HttpRequest,
    queue: Queue,
    new: NewRequest,
    storing: asyncio.Task[Request],
    base: str,
) -> Response:
    stored = await asyncio.shield(storing)
    waiting = await queue.waiting(stored)
    body: QueueStatus = {
        "status": "IN_QUEUE",
        "request_id": stored.id,
        "gateway_request_id": stored.id,
        **request_urls(base, stored.endpoint, stored.id),
        "queue_position": waiting.position,
        "logs": None,
        "metrics": {},
        "darkroom": {**waiting_body(waiting)},
    }
    return add_replay_headers(request, json_reply(body), new, stored)


async def read_call(
    request: HttpRequest,
    services: Services,
    endpoint_id: str,
    caller: Caller,
    replay_key: str | None = None,
) -> tuple[NewRequest, str]:
    """Read the validated request, and the origin of the URLs in the response."""
    origin = origin_of(request)  # may be refused, so read it before anything is stored
    caller.require_endpoint(endpoint_id)
    if "idempotency-key" not in request.headers:  # with one, the endpoint may be gone meanwhile
        # Before the body: a wrong id is the more likely mistake.
        services.catalog_of(caller).get(endpoint_id)
    webhook = await parse_webhook(request, services.webhooks, origin, caller.tenant)
    raw = await read_body(request, services.config.limits.max_body_bytes, cost_of_json)
    # fal's JavaScript client sends no body for a call without `input`.
    body = await parse_body(raw) if raw else {}
    options = parse_options(
        request, caller, webhook=webhook, replay_key=replay_key, own_bucket=True
    )
    return await validate_call(request, caller, endpoint_id, body, options), origin


def _longest_queue(request: HttpRequest) -> int | None:
    """``fal_max_queue_length=N``: refuse the request if N or more are waiting."""
    text = request.query_params.get("fal_max_queue_length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        what = f"should be a whole number of at most {MAX_DIGITS} digits"
        raise query.invalid("fal_max_queue_length", what, text)
    return int(text)
