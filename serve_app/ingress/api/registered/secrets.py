"""``/v1/secrets``: values that endpoints use by name, such as keys of hosted providers. They are
set and replaced, and never shown."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import Forbidden, InvalidInput, NotFound
from serve_app.domain.executors.secrets import INSTALLATION, MAX_VALUE_BYTES, name_problem
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate, record_read
from serve_app.ingress.http.body import read_json
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path, in_query
from serve_app.ingress.services.services import Services, services_of
from serve_app.tenants.scopes import OPERATOR
from serve_app.tenants.secrets import MAX_SECRETS

MAX_BODY_BYTES = 8 * MAX_VALUE_BYTES  # JSON may escape each byte


class NewSecret(BaseModel):
    """Value of a secret."""

    model_config = ConfigDict(extra="forbid")

    value: str = Field(min_length=1, description=f"At most {MAX_VALUE_BYTES} bytes.")


class SecretStatus(TypedDict):
    """A secret. Its value is never shown."""

    name: str
    changed_at: Time
    changed_by: Annotated[str, Field(description="Id of an API key.")]


class SecretList(TypedDict):
    tenant: Annotated[str | None, Field(description="Null: the installation.")]
    secrets: list[SecretStatus]


class ChangedSecret(TypedDict):
    name: str
    tenant: Annotated[str | None, Field(description="Null: the installation.")]


async def listed(request: HttpRequest) -> Response:
    context_of(request).route = "v1.secrets"
    services, owner = await _allowed(request)
    found = await services.secrets.list(owner)
    body: SecretList = {
        "tenant": owner or None,
        "secrets": [
            {
                "name": each.name,
                "changed_at": each.changed_at.isoformat(),
                "changed_by": each.changed_by,
            }
            for each in found
        ],
    }
    return json_reply(body)


async def put(request: HttpRequest) -> Response:
    """Set or replace a secret. Requests that begin from now on use the new value."""
    context_of(request).route = "v1.secrets.set"
    services, owner = await _allowed(request)
    name = str(request.path_params["secret"])
    if (problem := name_problem(name)) is not None:
        raise InvalidInput.of_field("name", problem)
    value = _value(await read_json(request, MAX_BODY_BYTES))
    if not await services.secrets.put(owner, name, value, actor_of(request)):
        message = f"There are {MAX_SECRETS} secrets already, and no more are possible. Remove one"
        raise InvalidInput.of_field("name", message)
    return json_reply(_changed(name, owner))


async def removed(request: HttpRequest) -> Response:
    context_of(request).route = "v1.secrets.remove"
    services, owner = await _allowed(request)
    name = str(request.path_params["secret"])
    if not await services.secrets.remove(owner, name, actor_of(request)):
        raise NotFound(f"There is no secret {name[:64]}. GET /v1/secrets lists those that are set.")
    return json_reply(_changed(name, owner))


def _value(body: object) -> str:
    """Value of a body. Errors of a model would repeat it."""
    given = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    value = given.get("value")
    if given.keys() != {"value"} or not isinstance(value, str):
        raise InvalidInput.of_field("value", "The body should have a text `value`, and no more")
    if not 0 < len(value.encode()) <= MAX_VALUE_BYTES:
        raise InvalidInput.of_field("value", f"Should have 1 to {MAX_VALUE_BYTES} bytes")
    return value


async def _allowed(request: HttpRequest) -> tuple[Services, str]:
    """Services and the owner that the call is about. ``Forbidden``: not the caller's."""
    caller = await authenticate(request)
    services = services_of(request)
    tenant = query.text(request, "tenant") or caller.tenant
    installation = query.yes_no(request, "installation", default=False)
    if (installation or tenant != caller.tenant) and not caller.may(OPERATOR):
        whose = "the installation" if installation else "another tenant"
        raise Forbidden(f"Secrets of {whose} require a key with the scope `operator`.")
    if installation:
        if tenant != caller.tenant:
            raise query.invalid("tenant", "should not be set with installation", tenant)
        return services, INSTALLATION
    if tenant != caller.tenant:
        await services.identity.tenants.find(tenant)
        if request.method == "GET":
            await record_read(request, caller, tenant)
    return services, tenant


def _changed(name: str, owner: str) -> ChangedSecret:
    return {"name": name, "tenant": owner or None}


_NAME = in_path("secret", "Capital letters, digits and _. Apps get it as a variable of this name.")
_OWNER = (
    in_query("tenant", "Another tenant. Needs the scope `operator`."),
    in_query(
        "installation",
        "`true`: those that the operator sets for all tenants. Needs the scope `operator`.",
    ),
)
NEEDS = "Needs the scope `tenant-admin`"

LIST = Operation(
    "listSecrets",
    f"List secrets by name, without their values. {NEEDS}",
    {200: answer("By name.", SecretList)},
    errors=(404, 422),
    parameters=_OWNER,
)
SET = Operation(
    "setSecret",
    f"Set or replace a secret. {NEEDS}",
    {200: answer("It is stored, encrypted.", ChangedSecret)},
    errors=(404, 413, 422),
    parameters=(_NAME, *_OWNER),
    body=NewSecret,
)
REMOVE = Operation(
    "removeSecret",
    f"Remove a secret. Endpoints that need it fail from then on. {NEEDS}",
    {200: answer("It is removed.", ChangedSecret)},
    errors=(404, 422),
    parameters=(_NAME, *_OWNER),
)

ROUTES = [
    DocumentedRoute("/v1/secrets", listed, {"GET": LIST}),
    DocumentedRoute("/v1/secrets/{secret}", put, {"PUT": SET}),
    DocumentedRoute("/v1/secrets/{secret}", removed, {"DELETE": REMOVE}),
]
