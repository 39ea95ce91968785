"""Tokens of the hub that tenants set, encrypted in the database."""

from __future__ import annotations

from typing import LiteralString, Protocol

from serve_app.domain.audit.acts import Actor
from serve_app.postgres.database import Database
from serve_app.tenants.seal import Seal

PURPOSE = b"hub tokens of tenants"
MAX_TOKEN = 500  # characters

READ: LiteralString = """
-- name: hub_token
SELECT sealed FROM hub_tokens WHERE tenant = %(tenant)s
"""
PUT: LiteralString = """
WITH stored AS (
    INSERT INTO hub_tokens (tenant, sealed, changed_by)
    VALUES (%(tenant)s, %(sealed)s::bytea, %(actor)s)
    ON CONFLICT (tenant) DO UPDATE
    SET sealed = excluded.sealed, changed_at = now(), changed_by = excluded.changed_by
    RETURNING tenant
)
INSERT INTO audit (actor, address, action, subject, detail)
SELECT %(actor)s, %(address)s, 'hub-token.set', tenant, json_build_object('tenant', tenant)
FROM stored
"""
REMOVE: LiteralString = """
WITH removed AS (DELETE FROM hub_tokens WHERE tenant = %(tenant)s RETURNING tenant),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, 'hub-token.remove', tenant, json_build_object('tenant', tenant)
    FROM removed
)
SELECT tenant FROM removed
"""


class HubTokens(Protocol):
    """Tokens of the hub by tenant. Each change and its audit entry are written in one transaction.
    Never in lists, answers or logs."""

    async def token(self, tenant: str) -> str | None:
        """The tenant's token; None if it has set none."""
        ...

    async def put(self, tenant: str, token: str, actor: Actor) -> None: ...

    async def remove(self, tenant: str, actor: Actor) -> bool:
        """Remove the token. False: there is none."""
        ...


class PostgresHubTokens:
    """Implements ``HubTokens``."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._seal = Seal(secret, PURPOSE)

    async def token(self, tenant: str) -> str | None:
        rows = await self._database.rows(READ, {"tenant": tenant})
        what = f"The hub token of {tenant}"
        return self._seal.open(tenant, bytes(rows[0][0]), what) if rows else None

    async def put(self, tenant: str, token: str, actor: Actor) -> None:
        given = {"tenant": tenant, "sealed": self._seal.seal(tenant, token), **_audited(actor)}
        await self._database.rows(PUT, given)

    async def remove(self, tenant: str, actor: Actor) -> bool:
        given = {"tenant": tenant, **_audited(actor)}
        return bool(await self._database.rows(REMOVE, given))


def _audited(actor: Actor) -> dict[str, str]:
    return {"actor": actor.key_id, "address": actor.address}
