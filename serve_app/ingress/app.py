"""The HTTP application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import DarkroomError
from serve_app.ingress import files, health, page, platform
from serve_app.ingress.by_segment import BySegment
from serve_app.ingress.edge import Edge
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal import routes as fal
from serve_app.ingress.fal.addressing import Addressed
from serve_app.ingress.mcp import routes as mcp
from serve_app.ingress.openai import routes as openai
from serve_app.ingress.realtime import sockets
from serve_app.ingress.replicate import routes as replicate
from serve_app.ingress.reply import json_reply


def create_app() -> Starlette:
    """The application without its collaborators: set ``app.state.core`` before it is called."""
    prefixed = BySegment(
        [
            *fal.ROUTES,
            *files.ROUTES,
            *platform.ROUTES,
            *health.ROUTES,
            *page.ROUTES,
            *openai.ROUTES,
            *replicate.ROUTES,
            *mcp.ROUTES,
            sockets.PREFIXED,
        ]
    )
    app = Starlette(
        routes=[prefixed, fal.UNPREFIXED, sockets.UNPREFIXED],
        middleware=[Middleware(Edge), Middleware(Addressed, own=prefixed.firsts)],
        exception_handlers={DarkroomError: _refused, HTTPException: _no_route},
    )
    app.router.redirect_slashes = False
    return app


async def _refused(request: HttpRequest, error: Exception) -> Response:
    if not isinstance(error, DarkroomError):
        raise error
    return exchange_of(request).refusal(error)


async def _no_route(_: HttpRequest, error: Exception) -> Response:
    """Starlette's own refusals: a path that does not take the method."""
    if not isinstance(error, HTTPException):
        raise error
    body = {"detail": error.detail, "message": error.detail}
    return json_reply(body, error.status_code, error.headers)
