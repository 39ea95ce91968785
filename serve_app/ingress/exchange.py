"""One HTTP call and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope

from serve_app.domain.errors import DarkroomError
from serve_app.ingress.reply import error_reply

SCOPE_KEY = "darkroom.exchange"


@dataclass(slots=True)
class Exchange:
    """What the edge and the handler tell each other about a call."""

    request_id: str  # goes out as x-fal-request-id; a submit's is the id of its request
    route: str = "other"  # label for metrics: a name of ours
    status: int = 0  # of the answer; 0 until it starts
    refusal: Callable[[DarkroomError], Response] = (
        error_reply  # in the words of the call's protocol
    )


def exchange_of(request: HTTPConnection) -> Exchange:
    return cast("Exchange", request.scope[SCOPE_KEY])


async def gone(receive: Receive) -> None:
    """Returns when the client has closed the connection. The body has to be read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


def attach(scope: Scope, exchange: Exchange) -> None:
    scope[SCOPE_KEY] = exchange
