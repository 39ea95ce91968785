"""``/v1/doctor``: the checks of ``darkroom doctor``, on the machine of the ingress that answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.diagnosis.checks import as_json
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import OPERATOR


class DoctorFinding(TypedDict):
    """Result of a check."""

    name: str
    ok: bool
    said: Annotated[str, Field(description="The result, or the problem and its remedy.")]


class DoctorReport(TypedDict):
    """What `darkroom doctor --json` prints, too."""

    problems: int
    findings: list[DoctorFinding]


async def examine(request: HttpRequest) -> Response:
    """Run the checks and show what they find. It needs the scope ``operator``."""
    context_of(request).route = "v1.doctor"
    await authenticate(request)
    found = await services_of(request).health.examination.report()
    return json_reply(as_json(found))


EXAMINE = Operation(
    "getDoctorReport",
    "Check packages, memory, disk, database, storage, sign-in and signing where the ingress runs. "
    "Needs the scope `operator`",
    {200: answer("What the checks found.", DoctorReport)},
    errors=(403, 503),
)

ROUTES = [DocumentedRoute("/v1/doctor", examine, {"GET": EXAMINE}, OPERATOR)]
