"""``/v1/tenants/{tenant}/hub-token``: the token of the hub that a tenant's files are fetched
with."""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import Forbidden, InvalidInput
from serve_app.ingress.http.auth import actor_of, authenticate, record_read
from serve_app.ingress.http.body import read_json
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.services.services import Services, services_of
from serve_app.tenants.hub_tokens import MAX_TOKEN
from serve_app.tenants.scopes import OPERATOR

MAX_BODY_BYTES = 16 * 1024


class NewHubToken(BaseModel):
    """Token to be set."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=MAX_TOKEN)


class HubTokenStatus(TypedDict):
    """Which token fetches the tenant's files. The token itself is never shown."""

    tenant: str
    own: Annotated[bool, Field(description="The tenant has set one.")]
    operators: Annotated[
        bool, Field(description="Without its own, the operator's is used (`share_hub_token`).")
    ]


async def shown(request: HttpRequest) -> Response:
    context_of(request).route = "v1.hub-token"
    services, tenant = await _allowed(request)
    return json_reply(await _status(services, tenant))


async def put(request: HttpRequest) -> Response:
    """Set the token. It is encrypted, and used for the next job."""
    context_of(request).route = "v1.hub-token"
    services, tenant = await _allowed(request)
    token = _token(await read_json(request, MAX_BODY_BYTES))
    await services.hub_tokens.put(tenant, token, actor_of(request))
    return json_reply(await _status(services, tenant))


async def removed(request: HttpRequest) -> Response:
    context_of(request).route = "v1.hub-token"
    services, tenant = await _allowed(request)
    await services.hub_tokens.remove(tenant, actor_of(request))
    return json_reply(await _status(services, tenant))


def _token(body: object) -> str:
    """Token of a body. Errors of a model would repeat its value."""
    given = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    token = given.get("token")
    if given.keys() != {"token"} or not isinstance(token, str):
        raise InvalidInput.of_field("token", "The body should have a text `token`, and no more")
    if not 0 < len(token) <= MAX_TOKEN or not (token.isascii() and token.isprintable()):
        message = f"Should be 1 to {MAX_TOKEN} printable ASCII characters"
        raise InvalidInput.of_field("token", message)
    return token


async def _allowed(request: HttpRequest) -> tuple[Services, str]:
    """Services and the tenant of the path. ``Forbidden``: it is another one's."""
    caller = await authenticate(request)
    services, tenant = services_of(request), str(request.path_params["tenant"])
    if tenant != caller.tenant:
        if not caller.may(OPERATOR):
            raise Forbidden("The hub token of another tenant requires the scope `operator`.")
        await services.identity.tenants.find(tenant)
        if request.method in ("GET", "HEAD"):
            await record_read(request, caller, tenant)
    return services, tenant


async def _status(services: Services, tenant: str) -> HubTokenStatus:
    return {
        "tenant": tenant,
        "own": await services.hub_tokens.token(tenant) is not None,
        "operators": services.config.weights.share_hub_token,
    }


_TENANT = in_path("tenant", "Id of the tenant.")
NEEDS = "Needs the scope `tenant-admin`, or `operator` for other tenants"

SHOW = Operation(
    "getHubToken",
    f"Show whether a tenant has a token of the hub. {NEEDS}",
    {200: answer("Never the token itself.", HubTokenStatus)},
    errors=(404,),
    parameters=(_TENANT,),
)
PUT = Operation(
    "putHubToken",
    f"Set the token of the hub that a tenant's weights are fetched with. {NEEDS}",
    {200: answer("Never the token itself.", HubTokenStatus)},
    errors=(404, 413, 422),
    parameters=(_TENANT,),
    body=NewHubToken,
)
REMOVE = Operation(
    "removeHubToken",
    f"Remove a tenant's token of the hub. {NEEDS}",
    {200: answer("What is used from now on.", HubTokenStatus)},
    errors=(404,),
    parameters=(_TENANT,),
)

ROUTES = [
    DocumentedRoute("/v1/tenants/{tenant}/hub-token", shown, {"GET": SHOW}),
    DocumentedRoute("/v1/tenants/{tenant}/hub-token", put, {"PUT": PUT}),
    DocumentedRoute("/v1/tenants/{tenant}/hub-token", removed, {"DELETE": REMOVE}),
]
