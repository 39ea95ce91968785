"""``/v1/keys``: API keys are made, listed and revoked, in fal's words for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.problems import invalid_input
from serve_app.domain.errors import Forbidden, NotFound
from serve_app.ingress import query
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.tenants.keys import ADMIN, API, KeyInfo

MAX_BODY_BYTES = 16 * 1024

Tenant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class NewKey(BaseModel):
    """What a key is to be."""

    model_config = ConfigDict(extra="forbid")

    alias: str = Field(default="", max_length=200)
    tenant: Tenant | None = None  # the caller's own
    scopes: frozenset[Literal["api", "priority", "admin"]] = Field(
        default=frozenset({API}), min_length=1
    )
    expires_at: AwareDatetime | None = None
    replay_undelivered: bool = False


async def listed(request: HttpRequest) -> Response:
    """A tenant's keys, oldest first, without their secrets: ``?tenant=``, or the caller's own."""
    exchange_of(request).route = "v1.keys"
    caller = await caller_of(request, ADMIN)
    tenant = query.text(request, "tenant") or caller.tenant
    found = await core_of(request).keys.list(tenant)
    return json_reply(
        {"keys": [_told(info) for info in found], "next_cursor": None, "has_more": False}
    )


async def made(request: HttpRequest) -> Response:
    """A new key. Its secret is in this answer and nowhere else."""
    exchange_of(request).route = "v1.keys"
    caller = await caller_of(request, ADMIN)
    try:
        new = NewKey.model_validate(await read_json(request, MAX_BODY_BYTES))
    except ValidationError as error:
        raise invalid_input(error) from None
    credential = await core_of(request).keys.create(
        new.tenant or caller.tenant,
        name=new.alias,
        scopes=frozenset(new.scopes),
        expires_at=new.expires_at,
        replay_undelivered=new.replay_undelivered,
        actor=caller.key_id,
    )
    body = {"key_id": credential.id, "key_secret": credential.secret, "key": str(credential)}
    return json_reply(body, 201)


async def revoked(request: HttpRequest) -> Response:
    """End a key, within seconds everywhere. Not the one that calls: it could lock everybody out."""
    exchange_of(request).route = "v1.key"
    caller = await caller_of(request, ADMIN)
    key_id = request.path_params["key_id"]
    if key_id == caller.key_id:
        raise Forbidden("A key cannot revoke itself. Make another with the scope admin, use that.")
    if not await core_of(request).keys.revoke(key_id, caller.key_id):
        raise NotFound(f"There is no key {key_id}.")
    return Response(status_code=204)


ROUTES = [
    Route("/v1/keys", listed, methods=["GET"]),
    Route("/v1/keys", made, methods=["POST"]),
    Route("/v1/keys/{key_id}", revoked, methods=["DELETE"]),
]


def _told(info: KeyInfo) -> dict[str, Any]:
    moments = {
        "created_at": info.created_at,
        "expires_at": info.expires_at,
        "revoked_at": info.revoked_at,
    }
    return {
        "key_id": info.id,
        "alias": info.name,
        "tenant": info.tenant,
        "scopes": sorted(info.scopes),
        "replay_undelivered": info.replay_undelivered,
        **{name: moment and moment.isoformat() for name, moment in moments.items()},
    }
