"""``/v1/doctor``: the checks of ``darkroom doctor``, on the machine of the ingress that answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.diagnosis.checks import as_json
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.tenants.scopes import OPERATOR


class DoctorFinding(TypedDict):
    """Result of a check."""

    name: str
    ok: bool
    message: Annotated[str, Field(description="The result, or the problem and its remedy.")]


class DoctorReport(TypedDict):
    """What `darkroom doctor --json` prints, too."""

    problems: int
    findings: list[DoctorFinding]


calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/doctor",
    "getDoctorReport",
    "Check packages, memory, disk, database, storage, sign-in and signing where the ingress runs",
    OPERATOR,
    reply=DoctorReport,
    errors=(503,),
)
async def examine(call: Call) -> Any:
    return as_json(await call.services.health.examination.report())
