"""``/v1/keys``: create, list and revoke API keys, in fal's format, and tenants."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import Forbidden, NotFound
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate, record_read
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import (
    Answer,
    DocumentedRoute,
    Operation,
    answer,
    in_path,
    in_query,
)
from serve_app.ingress.services.services import services_of
from serve_app.settings import NO_LIMITS, Config
from serve_app.tenants.api_keys import ADMIN, API, KeyInfo, TenantInfo

MAX_BODY_BYTES = 16 * 1024

Tenant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Scope = Literal["api", "priority", "admin"]


class NewKey(BaseModel):
    """Properties of a key to be created."""

    model_config = ConfigDict(extra="forbid")

    alias: str = Field(default="", max_length=200)
    tenant: Tenant | None = Field(default=None, description="Default: the caller's tenant.")
    scopes: frozenset[Scope] = Field(default=frozenset({API}), min_length=1)
    expires_at: AwareDatetime | None = None
    replay_undelivered: bool = Field(
        default=False,
        description="Repeat the response to a submit if the client did not receive it.",
    )


class ApiKey(TypedDict):
    """API key, without its secret."""

    key_id: str
    alias: str
    tenant: str
    scopes: list[Scope]
    replay_undelivered: bool
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class ApiKeyPage(TypedDict):
    keys: list[ApiKey]
    next_cursor: str | None
    has_more: bool


class CallingKey(TypedDict):
    """Key of the call, so that a program knows what it may do."""

    key_id: str
    tenant: str
    scopes: list[Scope]


class TenantStatus(TypedDict):
    """Tenant, with the limits in force: its own, or those of all tenants."""

    tenant: str
    created_at: Time
    valid_keys: Annotated[int, Field(description="Neither revoked nor expired.")]
    weight: Annotated[float, Field(description="Share relative to other tenants.")]
    max_running: Annotated[int | None, Field(description="Null: no limit.")]
    max_waiting: int
    max_waiting_bytes: int
    uploads_bytes: Annotated[int, Field(description="Of its uploaded files.")]
    max_uploads_bytes: int
    retention_days: Annotated[float | None, Field(description="Null: kept for ever.")]


class TenantPage(TypedDict):
    tenants: Annotated[list[TenantStatus], Field(description="By name, at most 1000.")]


class CreatedKey(TypedDict):
    """Key with its secret, which is shown only once."""

    key_id: str
    key_secret: str
    key: str


async def listed(request: HttpRequest) -> Response:
    """List a tenant's keys, oldest first, without secrets: ``?tenant=``, or the caller's own."""
    context_of(request).route = "v1.keys"
    caller = await authenticate(request, ADMIN)
    tenant = query.text(request, "tenant") or caller.tenant
    await record_read(request, caller, tenant)
    found = await services_of(request).identity.keys.list(tenant)
    page: ApiKeyPage = {
        "keys": [_api_key(info) for info in found],
        "next_cursor": None,
        "has_more": False,
    }
    return json_reply(page)


async def tenants(request: HttpRequest) -> Response:
    """List the tenants, with their limits."""
    context_of(request).route = "v1.tenants"
    await authenticate(request, ADMIN)
    services = services_of(request)
    found = await services.identity.keys.tenants()
    sizes = await services.files.uploads.sizes([each.id for each in found])
    body: TenantPage = {
        "tenants": [_tenant(each, sizes[each.id], services.config) for each in found]
    }
    return json_reply(body)


async def own(request: HttpRequest) -> Response:
    """Show the key that makes the call, with its tenant and its scopes."""
    context_of(request).route = "v1.keys.self"
    caller = await authenticate(request)
    body: CallingKey = {
        "key_id": caller.key_id,
        "tenant": caller.tenant,
        "scopes": cast("list[Scope]", sorted(caller.scopes)),
    }
    return json_reply(body)


async def create(request: HttpRequest) -> Response:
    """Create a key. Its secret is in this response and is not stored."""
    context_of(request).route = "v1.keys"
    caller = await authenticate(request, ADMIN)
    new = await read_model(request, NewKey, MAX_BODY_BYTES)
    credential = await services_of(request).identity.keys.create(
        new.tenant or caller.tenant,
        name=new.alias,
        scopes=frozenset(new.scopes),
        expires_at=new.expires_at,
        replay_undelivered=new.replay_undelivered,
        actor=actor_of(request),
    )
    body: CreatedKey = {
        "key_id": credential.id,
        "key_secret": credential.secret,
        "key": str(credential),
    }
    return json_reply(body, 201)


async def revoked(request: HttpRequest) -> Response:
    """Revoke a key; it takes effect everywhere within seconds.

    The calling key cannot revoke itself, because that could lock everyone out.
    """
    context_of(request).route = "v1.key"
    caller = await authenticate(request, ADMIN)
    key_id = request.path_params["key_id"]
    if key_id == caller.key_id:
        raise Forbidden(
            "A key cannot revoke itself. Create another key with the scope `admin`, and use that."
        )
    if not await services_of(request).identity.keys.revoke(key_id, actor_of(request)):
        raise NotFound(f"There is no key {key_id}.")
    return Response(status_code=204)


LIST = Operation(
    "listKeys",
    "List a tenant's API keys. Needs the scope `admin`",
    {200: answer("The keys, without secrets.", ApiKeyPage)},
    errors=(403, 422),
    parameters=(in_query("tenant", "Default: the caller's tenant."),),
)
LIST_TENANTS = Operation(
    "listTenants",
    "List the tenants, with their limits. Needs the scope `admin`",
    {200: answer("The tenants.", TenantPage)},
    errors=(403,),
)
OWN = Operation(
    "getOwnKey",
    "Show the tenant and the scopes of the key that makes the call",
    {200: answer("The key, without its secret.", CallingKey)},
)
CREATE = Operation(
    "createKey",
    "Create an API key. Needs the scope `admin`",
    {201: answer("The key. Its secret is shown only once.", CreatedKey)},
    errors=(403, 413, 422),
    body=NewKey,
)
REVOKE = Operation(
    "revokeKey",
    "Revoke an API key. Needs the scope `admin`",
    {204: Answer("The key is revoked.")},
    errors=(403, 404),
    parameters=(in_path("key_id", "The part of the key before the colon."),),
)

ROUTES = [
    DocumentedRoute("/v1/keys", listed, {"GET": LIST}),
    DocumentedRoute("/v1/keys", create, {"POST": CREATE}),
    DocumentedRoute("/v1/tenants", tenants, {"GET": LIST_TENANTS}),
    DocumentedRoute("/v1/keys/self", own, {"GET": OWN}),
    DocumentedRoute("/v1/keys/{key_id}", revoked, {"DELETE": REVOKE}),
]


def _tenant(info: TenantInfo, uploads_bytes: int, config: Config) -> TenantStatus:
    queue, own = config.queue, config.queue.tenant_limits.get(info.id, NO_LIMITS)
    return {
        "tenant": info.id,
        "created_at": info.created_at.isoformat(),
        "valid_keys": info.valid_keys,
        "weight": own.weight,
        "max_running": own.max_running or queue.max_running_per_tenant,
        "max_waiting": own.max_waiting or queue.max_waiting_per_tenant,
        "max_waiting_bytes": own.max_waiting_bytes or queue.max_waiting_bytes_per_tenant,
        "uploads_bytes": uploads_bytes,
        "max_uploads_bytes": own.max_uploads_bytes or config.limits.max_uploads_bytes_per_tenant,
        "retention_days": own.retention_days or queue.retention_days,
    }


def _api_key(info: KeyInfo) -> ApiKey:
    return {
        "key_id": info.id,
        "alias": info.name,
        "tenant": info.tenant,
        "scopes": cast("list[Scope]", sorted(info.scopes)),
        "replay_undelivered": info.replay_undelivered,
        "created_at": info.created_at.isoformat(),
        "expires_at": info.expires_at.isoformat() if info.expires_at else None,
        "revoked_at": info.revoked_at.isoformat() if info.revoked_at else None,
    }
