"""``/rest/tokens``: a token for a browser, which should not have the key itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.problems import invalid_input
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply

MAX_BODY_BYTES = 16 * 1024
LONGEST_S = 3600
"""A token cannot be revoked."""

App = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[int, Field(ge=1, le=LONGEST_S)]


class NewToken(BaseModel):
    """What fal's clients send: those of today the first two fields, newer ones also the others."""

    allowed_apps: list[App] = Field(default_factory=list, max_length=100)
    token_expiration: Seconds = 120
    app: App | None = None
    duration: Seconds | None = None


async def issued(request: HttpRequest) -> Response:
    """The token, as a JSON string."""
    exchange_of(request).route = "fal.token"
    caller = await caller_of(request)
    body = await read_json(request, MAX_BODY_BYTES)
    try:
        wanted = NewToken.model_validate(body)
    except ValidationError as error:
        raise invalid_input(error) from None
    apps = [*wanted.allowed_apps, *([wanted.app] if wanted.app else [])]
    if not apps:
        message = "allowed_apps should name what the token is for"
        raise InvalidInput(
            f"{message}.", (FieldProblem(("body", "allowed_apps"), message, "missing"),)
        )
    valid_s = wanted.duration or wanted.token_expiration
    return json_reply(core_of(request).tokens.issue(caller, apps, valid_s))


ROUTES = [
    Route("/rest/tokens", issued, methods=["POST"]),
    Route("/rest/tokens/", issued, methods=["POST"]),
    Route("/rest/tokens/realtime", issued, methods=["POST"]),
]
