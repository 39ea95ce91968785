"""Liveness and readiness of this process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import Operation, answer
from serve_app.ingress.services.health import ReadinessStatus
from serve_app.ingress.services.services import services_of


class Alive(TypedDict):
    status: Literal["ok"]


class Ready(TypedDict):
    """Calls that can be served, and the result of each check: `ok`, or an error message."""

    status: Annotated[
        ReadinessStatus,
        Field(
            description="`ok` also beside a check that no call needs, such as `configuration`; "
            "`no_submits`: everything but submits."
        ),
    ]
    checks: dict[str, str]


async def alive(request: HttpRequest) -> Response:
    """Answer 200 as long as the event loop runs."""
    context_of(request).route = "health"
    body: Alive = {"status": "ok"}
    return json_reply(body)


async def ready(request: HttpRequest) -> Response:
    """Answer 200 if submits are accepted, else 503, with each check."""
    return await _readiness(request, ("ok",))


async def ready_for_reads(request: HttpRequest) -> Response:
    """Answer 200 if everything but submits works, else 503, with each check."""
    return await _readiness(request, ("ok", "no_submits"))


async def _readiness(request: HttpRequest, accepted: Collection[ReadinessStatus]) -> Response:
    context_of(request).route = "ready"
    readiness = services_of(request).health.readiness
    checks = await readiness.report()
    body: Ready = {"status": readiness.status(checks), "checks": checks}
    good = body["status"] in accepted
    return json_reply(body, 200 if good else 503, {} if good else {"retry-after": "1"})


CHECK_ALIVE = Operation(
    "alive", "Check that the process is alive", {200: answer("It is alive.", Alive)}, key=False
)
CHECK_READY = Operation(
    "ready",
    "Check that the process accepts requests",
    {
        200: answer("Submits are accepted.", Ready),
        503: answer("Submits are refused, or nothing works.", Ready),
    },
    key=False,
)
CHECK_READY_FOR_READS = Operation(
    "readyForReads",
    "Check that the process serves everything but submits",
    {
        200: answer("Statuses, results and files are served.", Ready),
        503: answer("A service that Darkroom depends on does not answer.", Ready),
    },
    key=False,
)
