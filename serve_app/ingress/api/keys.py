"""``/v1/keys``: create, list, rotate and revoke API keys, in fal's format."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, cast

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from serve_app.domain.errors import AlreadyFinal, Forbidden
from serve_app.ingress.resources.calls import Call, Calls, JsonCalls, Special
from serve_app.ingress.resources.exports import ExportedTenant, Lines
from serve_app.resources.declaration import plain
from serve_app.resources.keys import KEYS
from serve_app.settings import DEFAULT_SCOPES, EndpointPattern, Scope, Tenant
from serve_app.tenants.api_keys import ApiKey
from serve_app.tenants.credentials import Credential
from serve_app.tenants.scopes import OPERATOR, expand_scopes
from serve_app.tenants.sign_in import ACTOR

MAX_ENDPOINTS = 100
MAX_OVERLAP_S = 30 * 86_400
MAX_VALID_S = 100 * 366 * 86_400


class NewKey(BaseModel):
    """Properties of a key to be created."""

    model_config = ConfigDict(extra="forbid")

    alias: str = Field(default="", max_length=200)
    tenant: Tenant | None = Field(default=None, description="Default: the caller's tenant.")
    scopes: frozenset[Scope] = Field(default=DEFAULT_SCOPES, min_length=1)
    expires_at: AwareDatetime | None = None
    expires_in_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_VALID_S,
        description="Seconds until it expires, by the server's clock, instead of `expires_at`.",
    )
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
    def _one_end(self) -> NewKey:
        if self.expires_at is not None and self.expires_in_s is not None:
            raise ValueError("`expires_at` and `expires_in_s` exclude each other")
        return self

    @model_validator(mode="after")
    def _endpoints_of_no_operator(self) -> NewKey:
        if self.endpoints and OPERATOR in expand_scopes(frozenset(self.scopes)):
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


own = JsonCalls()


@own.call(
    "/v1/keys/self", "getOwnKey", "Show the tenant and the scopes of the key that makes the call"
)
async def show_own(call: Call) -> CallingKey:
    caller = call.caller
    return {
        "key_id": caller.key_id,
        "tenant": caller.tenant,
        "scopes": cast("list[Scope]", sorted(caller.scopes)),
        "grants": cast("list[Scope]", sorted(expand_scopes(caller.scopes))),
        "endpoints": [*caller.endpoints],
    }


calls = Calls(KEYS)
CREATED = Special(reply=CreatedKey, status=201, errors=(400,))


@calls.list("List a tenant's API keys, oldest first, without their secrets")
async def list_keys(call: Call) -> Sequence[ApiKey]:
    """A key that is limited to some endpoints sees those of no others."""
    now, caller = call.services.clock.now(), call.caller
    api_keys = await call.services.identity.keys.list(call.owner)
    return [api_key.at(now) for api_key in api_keys if caller.within(api_key.endpoints)]


@calls.create("Create an API key. Its secret is in this answer and is not stored", NewKey, CREATED)
async def create_key(call: Call, new: NewKey) -> CreatedKey:
    caller, identity = call.caller, call.services.identity
    tenant = new.tenant or call.owner
    caller.require_tenant(tenant, "Keys")
    caller.require_authority(new.scopes, new.endpoints)
    expires_at = new.expires_at
    if new.expires_in_s is not None:
        expires_at = call.services.clock.now() + timedelta(seconds=new.expires_in_s)
    await _require_end(call, expires_at)
    if tenant != caller.tenant:
        await identity.tenants.require_not_deleted(tenant)
    credential = await identity.keys.create(
        tenant,
        name=new.alias,
        scopes=frozenset(new.scopes),
        expires_at=expires_at,
        replay_undelivered=new.replay_undelivered,
        endpoints=new.endpoints,
        actor=call.actor,
    )
    return credential_body(credential)


@calls.act(
    "rotate",
    "Replace an API key by one with the same rights, and end it after an overlap",
    Rotation,
    CREATED,
    method="POST",
)
async def rotate_key(call: Call, key_id: str, body: Rotation) -> CreatedKey | None:
    api_key = await _manageable_key(call, key_id)
    if api_key is None:
        return None
    if api_key.person:
        raise Forbidden(
            f"The key {key_id} is of a sign-in, which a rotation would prolong without the "
            "provider. Sign in again instead."
        )
    now = call.services.clock.now()
    lasts = api_key.expires_at and now + (api_key.expires_at - api_key.created_at)
    await _require_end(call, lasts or None)
    credential = await call.services.identity.keys.rotate(key_id, body.overlap_s, call.actor)
    if credential is None:
        raise AlreadyFinal(
            f"The key {key_id} was revoked, has expired, or was rotated before. Create a new one."
        )
    return credential_body(credential)


@calls.delete()
async def revoke_key(call: Call, key_id: str) -> bool:
    """The calling key cannot revoke itself, because that could lock everyone out."""
    if key_id == call.caller.key_id:
        raise Forbidden(
            "A key cannot revoke itself. Create another key with the same scopes, and use that."
        )
    if await _manageable_key(call, key_id) is None:
        return False
    return await call.services.identity.keys.revoke(key_id, call.actor)


async def export_keys(export: ExportedTenant) -> Lines:
    now = export.services.clock.now()
    for api_key in await export.services.identity.keys.list(export.tenant):
        yield plain(api_key.at(now))


async def _manageable_key(call: Call, key_id: str) -> ApiKey | None:
    """Key that the caller may manage. None: there is no such key, or it is of another tenant."""
    api_key = await call.services.identity.keys.find(key_id)
    if api_key is None or (api_key.tenant != call.owner and not call.caller.may(OPERATOR)):
        return None
    call.caller.require_authority(api_key.scopes, api_key.endpoints)
    return api_key


async def _require_end(call: Call, expires_at: datetime | None) -> None:
    """``Forbidden``: a person who has signed in makes a key that outlives the sign-in, so that the
    provider's refusal of the person would not end it."""
    if call.services.config.sign_in.oidc_lasting_keys:
        return
    own = await call.services.identity.keys.find(call.caller.key_id)
    if not call.caller.key_id.startswith(ACTOR) and (own is None or own.person is None):
        return
    until = None if own is None else own.expires_at
    if until is None or expires_at is None or expires_at > until:
        ends = "" if until is None else f", at {until.isoformat(timespec='seconds')}"
        raise Forbidden(
            f"The keys that you make end with your sign-in{ends}. Give an earlier `expires_at`, or "
            "ask the operator to set DARKROOM_OIDC_LASTING_KEYS."
        )


def credential_body(credential: Credential) -> CreatedKey:
    return {"key_id": credential.id, "key_secret": credential.secret, "key": str(credential)}


ROUTES = [*calls.routes, *own.routes]
