"""``/v1/keys``: create, list, rotate and revoke API keys, in fal's format."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import AlreadyFinal, Forbidden, NotFound
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate, record_read
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
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
from serve_app.settings import EndpointPattern, Scope, Tenant
from serve_app.tenants.api_keys import KeyInfo
from serve_app.tenants.credentials import Credential
from serve_app.tenants.scopes import API, OPERATOR, Caller, granted

MAX_BODY_BYTES = 16 * 1024

MAX_ENDPOINTS = 100
MAX_OVERLAP_S = 30 * 86_400


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
    endpoints: list[EndpointPattern] = Field(
        default=[],
        max_length=MAX_ENDPOINTS,
        description="The only endpoints that the key may use; `*` stands for any characters. "
        "Empty: all.",
    )

    @model_validator(mode="after")
    def _endpoints_of_no_operator(self) -> NewKey:
        if self.endpoints and OPERATOR in granted(frozenset(self.scopes)):
            raise ValueError(
                "a key with the scope `operator` or `admin` cannot be limited to endpoints"
            )
        return self


class Rotation(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: float = Field(
        default=86_400,
        ge=0,
        le=MAX_OVERLAP_S,
        description="Seconds in which the old key still works.",
    )


class ApiKey(TypedDict):
    """API key, without its secret."""

    key_id: str
    alias: str
    tenant: str
    scopes: list[Scope]
    replay_undelivered: bool
    endpoints: Annotated[list[str], Field(description="The only ones; empty: all.")]
    kind: Annotated[Literal["person", "service"], Field(description="`person`: made by a sign-in.")]
    person: Annotated[str | None, Field(description="Who signed in.")]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Annotated[Time | None, Field(description="About a minute exact.")]
    successor: Annotated[str | None, Field(description="Key that replaced it by a rotation.")]


class ApiKeyPage(TypedDict):
    keys: list[ApiKey]
    next_cursor: str | None
    has_more: bool


class CallingKey(TypedDict):
    """Key of the call, so that a program knows what it may do."""

    key_id: str
    tenant: str
    scopes: list[Scope]
    grants: Annotated[list[Scope], Field(description="The scopes, and all that they include.")]
    endpoints: Annotated[list[str], Field(description="The only ones; empty: all.")]


class CreatedKey(TypedDict):
    """Key with its secret, which is shown only once."""

    key_id: str
    key_secret: str
    key: str


async def listed(request: HttpRequest) -> Response:
    """List a tenant's keys, oldest first, without secrets: ``?tenant=``, or the caller's own."""
    context_of(request).route = "v1.keys"
    caller = await authenticate(request)
    tenant = query.text(request, "tenant") or caller.tenant
    _require_tenant(caller, tenant)
    await record_read(request, caller, tenant)
    found = await services_of(request).identity.keys.list(tenant)
    page: ApiKeyPage = {
        "keys": [_api_key(info) for info in found],
        "next_cursor": None,
        "has_more": False,
    }
    return json_reply(page)


async def own(request: HttpRequest) -> Response:
    """Show the key that makes the call, with its tenant and its scopes."""
    context_of(request).route = "v1.keys.self"
    caller = await authenticate(request)
    body: CallingKey = {
        "key_id": caller.key_id,
        "tenant": caller.tenant,
        "scopes": cast("list[Scope]", sorted(caller.scopes)),
        "grants": cast("list[Scope]", sorted(granted(caller.scopes))),
        "endpoints": [*caller.endpoints],
    }
    return json_reply(body)


async def create(request: HttpRequest) -> Response:
    """Create a key. Its secret is in this response and is not stored."""
    context_of(request).route = "v1.keys"
    caller = await authenticate(request)
    new = await read_model(request, NewKey, MAX_BODY_BYTES)
    _require_tenant(caller, new.tenant or caller.tenant)
    caller.require_authority(new.scopes, new.endpoints)
    if new.tenant not in (None, caller.tenant):
        await services_of(request).identity.tenants.require_not_deleted(str(new.tenant))
    credential = await services_of(request).identity.keys.create(
        new.tenant or caller.tenant,
        name=new.alias,
        scopes=frozenset(new.scopes),
        expires_at=new.expires_at,
        replay_undelivered=new.replay_undelivered,
        endpoints=new.endpoints,
        actor=actor_of(request),
    )
    return created(credential)


def created(credential: Credential) -> Response:
    """Answer with a key that was made, and its secret."""
    body: CreatedKey = {
        "key_id": credential.id,
        "key_secret": credential.secret,
        "key": str(credential),
    }
    return json_reply(body, 201)


async def rotated(request: HttpRequest) -> Response:
    """Create a key with the rights of another one, which ends after an overlap. The new secret is
    in this response and is not stored."""
    context_of(request).route = "v1.key.rotate"
    caller = await authenticate(request)
    wanted = await read_model(request, Rotation, MAX_BODY_BYTES)
    found = await _managed(request, caller)
    if found.person:
        raise Forbidden(
            f"The key {found.id} is of a sign-in, which a rotation would prolong without the "
            "provider. Sign in again instead."
        )
    keys = services_of(request).identity.keys
    credential = await keys.rotate(found.id, wanted.overlap_s, actor_of(request))
    if credential is None:
        raise AlreadyFinal(
            f"The key {found.id} was revoked, has expired, or was rotated before. Create a new one."
        )
    return created(credential)


async def _managed(request: HttpRequest, caller: Caller) -> KeyInfo:
    """Key of the path, which the caller may manage. Keys of other tenants are not found."""
    key_id: str = request.path_params["key_id"]
    found = await services_of(request).identity.keys.find(key_id)
    if found is None or (found.tenant != caller.tenant and not caller.may(OPERATOR)):
        raise NotFound(f"There is no key {key_id[:64]}.")
    caller.require_authority(found.scopes, found.endpoints)
    return found


def _require_tenant(caller: Caller, tenant: str) -> None:
    if tenant != caller.tenant and not caller.may(OPERATOR):
        raise Forbidden("Keys of another tenant require a key with the scope `operator`.")


async def revoked(request: HttpRequest) -> Response:
    """Revoke a key; it takes effect everywhere within seconds.

    The calling key cannot revoke itself, because that could lock everyone out.
    """
    context_of(request).route = "v1.key"
    caller = await authenticate(request)
    key_id = request.path_params["key_id"]
    if key_id == caller.key_id:
        raise Forbidden(
            "A key cannot revoke itself. Create another key with the same scopes, and use that."
        )
    await _managed(request, caller)
    await services_of(request).identity.keys.revoke(key_id, actor_of(request))
    return Response(status_code=204)


LIST = Operation(
    "listKeys",
    "List a tenant's API keys. Needs the scope `tenant-admin`",
    {200: answer("The keys, without secrets.", ApiKeyPage)},
    errors=(403, 422),
    parameters=(in_query("tenant", "Default: the caller's tenant. Another one needs `operator`."),),
)
OWN = Operation(
    "getOwnKey",
    "Show the tenant and the scopes of the key that makes the call",
    {200: answer("The key, without its secret.", CallingKey)},
)
CREATE = Operation(
    "createKey",
    "Create an API key. Needs the scope `tenant-admin`",
    {201: answer("The key. Its secret is shown only once.", CreatedKey)},
    errors=(400, 403, 413, 422),
    body=NewKey,
)
REVOKE = Operation(
    "revokeKey",
    "Revoke an API key. Needs the scope `tenant-admin`",
    {204: Answer("The key is revoked.")},
    errors=(403, 404),
    parameters=(in_path("key_id", "The part of the key before the colon."),),
)
ROTATE = Operation(
    "rotateKey",
    "Replace an API key by one with the same rights. Needs the scope `tenant-admin`",
    {201: answer("The new key. Its secret is shown only once.", CreatedKey)},
    errors=(400, 403, 404, 413, 422),
    body=Rotation,
    parameters=(in_path("key_id", "The part of the old key before the colon."),),
)

ROUTES = [
    DocumentedRoute("/v1/keys", listed, {"GET": LIST}),
    DocumentedRoute("/v1/keys", create, {"POST": CREATE}),
    DocumentedRoute("/v1/keys/self", own, {"GET": OWN}),
    DocumentedRoute("/v1/keys/{key_id}", revoked, {"DELETE": REVOKE}),
    DocumentedRoute("/v1/keys/{key_id}/rotate", rotated, {"POST": ROTATE}),
]


def _api_key(info: KeyInfo) -> ApiKey:
    return {
        "key_id": info.id,
        "alias": info.name,
        "tenant": info.tenant,
        "scopes": cast("list[Scope]", sorted(info.scopes)),
        "replay_undelivered": info.replay_undelivered,
        "endpoints": [*info.endpoints],
        "kind": "person" if info.person else "service",
        "person": info.person or None,
        "created_at": info.created_at.isoformat(),
        "expires_at": iso(info.expires_at),
        "revoked_at": iso(info.revoked_at),
        "last_used_at": iso(info.last_used_at),
        "successor": info.successor,
    }
