"""The keys by which receivers check webhooks, where fal has them."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply


async def jwks(request: HttpRequest) -> Response:
    """A JSON Web Key Set; takes no key. Receivers may keep it for a day."""
    exchange_of(request).route = "fal.jwks"
    found = await core_of(request).webhooks.signer.jwks()
    return json_reply(found, headers={"cache-control": "public, max-age=3600"})


ROUTES = [
    Route("/.well-known/jwks.json", jwks, methods=["GET"]),
    Route("/rest/.well-known/jwks.json", jwks, methods=["GET"]),
]
