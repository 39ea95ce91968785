"""Tokens of the hub that tenants set, encrypted in the database.

The key is derived from a secret of the installation, so a dump of the table alone does not show
them. Whoever reads the whole database does: the secret is in it, unless it is the operator's own.
"""

from __future__ import annotations

import secrets
from typing import LiteralString, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from serve_app.domain.errors import Unavailable
from serve_app.domain.operations import Actor
from serve_app.postgres.database import Database

NONCE_BYTES = 12
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
INSERT INTO audit (actor, address, action, subject)
SELECT %(actor)s, %(address)s, 'hub-token.set', tenant FROM stored
"""
REMOVE: LiteralString = """
WITH removed AS (DELETE FROM hub_tokens WHERE tenant = %(tenant)s RETURNING tenant),
noted AS (
    INSERT INTO audit (actor, address, action, subject)
    SELECT %(actor)s, %(address)s, 'hub-token.remove', tenant FROM removed
)
SELECT tenant FROM removed
"""


class TokenSeal:
    """Encryption of tokens. A sealed token can be opened for its tenant only."""

    def __init__(self, secret: bytes) -> None:
        derive = HKDF(hashes.SHA256(), 32, salt=None, info=b"hub tokens of tenants")
        self._cipher = AESGCM(derive.derive(secret))

    def seal(self, tenant: str, token: str, nonce: bytes) -> bytes:
        """Encrypted token. ``nonce``: 12 bytes that are never used twice."""
        return nonce + self._cipher.encrypt(nonce, token.encode(), tenant.encode())

    def open(self, tenant: str, sealed: bytes) -> str:
        """The token. ``Unavailable``: it was sealed with another secret."""
        nonce, body = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, body, tenant.encode()).decode()
        except InvalidTag:
            raise Unavailable(
                f"The hub token of {tenant} cannot be decrypted: the installation's secret has "
                "changed. Set it again."
            ) from None


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
        self._seal = TokenSeal(secret)

    async def token(self, tenant: str) -> str | None:
        rows = await self._database.rows(READ, {"tenant": tenant})
        return self._seal.open(tenant, bytes(rows[0][0])) if rows else None

    async def put(self, tenant: str, token: str, actor: Actor) -> None:
        sealed = self._seal.seal(tenant, token, secrets.token_bytes(NONCE_BYTES))
        given = {"tenant": tenant, "sealed": sealed, **_audited(actor)}
        await self._database.rows(PUT, given)

    async def remove(self, tenant: str, actor: Actor) -> bool:
        given = {"tenant": tenant, **_audited(actor)}
        return bool(await self._database.rows(REMOVE, given))


def _audited(actor: Actor) -> dict[str, str]:
    return {"actor": actor.key_id, "address": actor.address}
