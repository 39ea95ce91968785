"""fal's two ways in: ``run`` answers with the output, ``submit`` with where to ask for it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import Cancelled, FieldProblem, InvalidInput
from serve_app.domain.outcome import Failure
from serve_app.domain.request import NewRequest, Request
from serve_app.ingress import acceptance, submission
from serve_app.ingress.acknowledgement import Acknowledgement, noticed_loss
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.exchange import exchange_of, gone
from serve_app.ingress.fal import news
from serve_app.ingress.fal.addressing import request_base
from serve_app.ingress.fal.failure import failure_reply
from serve_app.ingress.fal.output import outcome_reply
from serve_app.ingress.fal.paths import request_urls
from serve_app.ingress.fal.webhook import webhook_of
from serve_app.ingress.origin import origin_of
from serve_app.ingress.repeats import about
from serve_app.ingress.reply import json_reply
from serve_app.ingress.standing import waiting_body
from serve_app.tenants.keys import Identity

MOST_DIGITS = 18
"""Of a number in the query. Python reads none of thousands."""

WENT_AWAY = Failure(Cancelled.code, "The client went away before the end.", retryable=False)


async def run(request: HttpRequest, endpoint_id: str) -> Response:
    """``POST /{endpoint}``: 200 with the bare output, or the failure. Hanging up cancels."""
    core = core_of(request)
    exchange_of(request).route = "fal.run"
    news.refuse(request)
    caller = await caller_of(request)
    new, origin = await accepted(request, core, endpoint_id, caller)
    ended = await submission.run(core, new, lambda: gone(request.receive))
    if ended is None:
        return failure_reply(WENT_AWAY)
    reply = await outcome_reply(ended, core.storage, origin)
    return about(request, reply, new, ended)


async def submit(request: HttpRequest, endpoint_id: str, prefix: str) -> Response:
    """``POST /queue/{endpoint}``: 200 once the request is stored."""
    core = core_of(request)
    exchange_of(request).route = "fal.submit"
    caller = await caller_of(request)
    replay_key = caller.key_id if caller.replay_undelivered else None
    base, tells = request_base(request, prefix), news.wanted(request)
    new, origin = await accepted(request, core, endpoint_id, caller, replay_key)
    new = news.marked(core, new) if tells else new
    storing = submission.submit(core, new, _longest_queue(request))
    if tells:
        storing.add_done_callback(partial(_followed, core, new, origin))
    if new.replay_key is None:
        return await _submitted(request, core, new, storing, base)
    with noticed_loss(core, new, storing):
        reply = await _submitted(request, core, new, storing, base)
    return Acknowledgement(reply, core, new, storing)


def _followed(core: Core, new: NewRequest, origin: str, storing: asyncio.Task[Request]) -> None:
    """Its webhook is told how far it is. A repeat is another's, who is told already."""
    if storing.cancelled() or storing.exception() is not None or new.webhook is None:
        return
    if (stored := storing.result()).id == new.id:
        news.follow(core, stored, new.webhook.url, origin)


async def _submitted(
    request: HttpRequest, core: Core, new: NewRequest, storing: asyncio.Task[Request], base: str
) -> Response:
    stored = await asyncio.shield(storing)
    waiting = await core.queue.waiting(stored)
    reply = json_reply(
        {
            "status": "IN_QUEUE",
            "request_id": stored.id,
            "gateway_request_id": stored.id,
            **request_urls(base, stored.endpoint, stored.id),
            "queue_position": waiting.position,
            "logs": None,
            "metrics": {},
            "darkroom": waiting_body(waiting),
        }
    )
    return about(request, reply, new, stored)


async def accepted(
    request: HttpRequest,
    core: Core,
    endpoint_id: str,
    caller: Identity,
    replay_key: str | None = None,
) -> tuple[NewRequest, str]:
    """What the call asks to be made, checked, and the origin of the URLs to hand out."""
    origin = origin_of(request)  # may be refused, and then nothing is to be stored
    core.catalog.get(endpoint_id)  # before the body: a wrong id is the likelier mistake
    webhook = await webhook_of(request, core, origin)
    body = await read_json(request, core.config.max_body_bytes)
    new = await acceptance.accepted(
        request, core, caller, endpoint_id, body, webhook=webhook, replay_key=replay_key
    )
    return new, origin


def _longest_queue(request: HttpRequest) -> int | None:
    """``fal_max_queue_length=N``: nothing new when N or more wait already."""
    given = request.query_params.get("fal_max_queue_length")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= MOST_DIGITS):
        what = f"should be a whole number of at most {MOST_DIGITS} digits"
        raise _invalid_query("fal_max_queue_length", what, given)
    return int(given)


def _invalid_query(name: str, what: str, value: Any) -> InvalidInput:
    problem = FieldProblem(("query", name), f"{name} {what}", "value_error", None, value)
    return InvalidInput(f"The query parameter {name} {what}.", (problem,))
