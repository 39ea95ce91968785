"""Whether this process lives, and whether it can serve."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply


async def alive(request: HttpRequest) -> Response:
    """200 as long as the event loop turns."""
    exchange_of(request).route = "health"
    return json_reply({"status": "ok"})


async def ready(request: HttpRequest) -> Response:
    """200 when all that Darkroom stands on answers, else 503; the body names each part."""
    exchange_of(request).route = "ready"
    checks = await core_of(request).readiness.report()
    good = all(result == "ok" for result in checks.values())
    body = {"status": "ok" if good else "unavailable", "checks": checks}
    return json_reply(body, 200 if good else 503, {} if good else {"retry-after": "1"})


ROUTES = [
    Route("/healthz", alive, methods=["GET", "HEAD"]),
    Route("/readyz", ready, methods=["GET", "HEAD"]),
]
