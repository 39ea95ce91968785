"""Saying that an answer is about a request that was submitted before."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.request import NewRequest, Request
from serve_app.ingress.exchange import exchange_of
from serve_app.telemetry import logs

REPLAYED = "x-darkroom-replayed"
"""On the answer to a repeat: it is about the request that was submitted before."""

CACHE = "x-darkroom-cache"
"""On the answer about a request that was given the outcome of another (``hit``), or waits for it
(``joined``)."""


def about(request: HttpRequest, reply: Response, new: NewRequest, stored: Request) -> Response:
    """``reply``, under the id of the request that it is about. It says whether that is an earlier
    one, or has the outcome of an earlier one."""
    if stored.reuses is not None:
        reply.headers[CACHE] = "hit"
    elif stored.follows is not None:
        reply.headers[CACHE] = "joined"
    if stored.id != new.id:
        exchange_of(request).request_id = stored.id
        logs.request_id.set(stored.id)  # the edge puts it back
        reply.headers[REPLAYED] = "1"
    return reply
