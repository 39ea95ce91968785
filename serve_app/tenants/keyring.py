"""API keys in PostgreSQL."""

from __future__ import annotations

import builtins
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool

from serve_app.domain.errors import DatabaseUnavailable, Unauthenticated
from serve_app.domain.ports import Clock
from serve_app.tenants.credential import Credential, from_header, new_credential
from serve_app.tenants.keys import API, Identity, KeyInfo
from serve_app.tenants.recent import Recent

KEEP_S = 5.0
CACHE_SIZE = 10_000

CREATE: LiteralString = """
WITH made AS (
    INSERT INTO api_keys (id, tenant, digest, scopes, name, expires_at, replay_undelivered)
    VALUES (%(id)s, %(tenant)s, %(digest)s, %(scopes)s, %(name)s, %(expires_at)s, %(replay)s)
)
INSERT INTO audit (actor, action, subject, detail)
SELECT %(actor)s, 'key.create', %(id)s, %(detail)s::json WHERE %(actor)s::text IS NOT NULL
"""
REVOKE: LiteralString = """
WITH revoked AS (
    UPDATE api_keys SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL
    RETURNING id, tenant
),
noted AS (
    INSERT INTO audit (actor, action, subject, detail)
    SELECT %(actor)s, 'key.revoke', id, json_build_object('tenant', tenant) FROM revoked
    WHERE %(actor)s::text IS NOT NULL
)
SELECT id FROM api_keys WHERE id = %(id)s
"""

_BAD = "The API key is not valid."


@dataclass(frozen=True, slots=True)
class _Stored:
    digest: bytes
    identity: Identity
    expires_at: datetime | None


_NOBODY = _Stored(bytes(32), Identity("", "", frozenset()), None)
"""Compared with when the id is unknown, so that this takes as long as a wrong secret."""


class KeyRing:
    """Implements ``Keys`` over the table ``api_keys``. Its owner opens and closes the pool."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Any],
        clock: Clock,
        keep_s: float = KEEP_S,
        size: int = CACHE_SIZE,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._known: Recent[_Stored] = Recent(size, keep_s)
        # Apart, so that a flood of invented ids cannot push the good ones out.
        self._unknown: Recent[bool] = Recent(size, keep_s)

    async def authenticate(self, header: str | None) -> Identity:
        credential = from_header(header)
        stored = await self._find(credential.id) or _NOBODY
        same = hmac.compare_digest(credential.digest, stored.digest)
        if not same or stored is _NOBODY:
            raise Unauthenticated(_BAD)
        if stored.expires_at is not None and self._clock.now() >= stored.expires_at:
            raise Unauthenticated("The API key has expired.")
        return stored.identity

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        scopes: frozenset[str] = frozenset({API}),
        expires_at: datetime | None = None,
        credential: Credential | None = None,
        replay_undelivered: bool = False,
        actor: str | None = None,
    ) -> Credential:
        made = credential or new_credential()
        await self._rows(
            "INSERT INTO tenants (id, name) VALUES (%(id)s, %(id)s) ON CONFLICT (id) DO NOTHING",
            {"id": tenant},
        )
        await self._rows(
            CREATE,
            {
                "id": made.id,
                "tenant": tenant,
                "digest": made.digest,
                "scopes": sorted(scopes),
                "name": name,
                "expires_at": expires_at,
                "replay": replay_undelivered,
                "actor": actor,
                "detail": json.dumps({"tenant": tenant, "alias": name, "scopes": sorted(scopes)}),
            },
        )
        self._unknown.drop(made.id)
        return made

    async def list(self, tenant: str) -> Sequence[KeyInfo]:
        rows = await self._rows(
            "SELECT id, tenant, scopes, name, created_at, expires_at, revoked_at, "
            "replay_undelivered FROM api_keys WHERE tenant = %(tenant)s ORDER BY created_at, id",
            {"tenant": tenant},
        )
        return [_info(row) for row in rows]

    async def revoke(self, key_id: str, actor: str | None = None) -> bool:
        rows = await self._rows(REVOKE, {"id": key_id, "actor": actor})
        self._known.drop(key_id)
        return bool(rows)

    async def any(self) -> bool:
        return bool(await self._rows("SELECT 1 FROM api_keys LIMIT 1"))

    async def _find(self, key_id: str) -> _Stored | None:
        now = self._clock.monotonic()
        stored = self._known.get(key_id, now)
        if stored is not None or self._unknown.get(key_id, now):
            return stored
        rows = await self._rows(
            "SELECT k.digest, k.tenant, k.scopes, k.expires_at, k.replay_undelivered "
            "FROM api_keys k "
            "JOIN tenants t ON t.id = k.tenant "
            "WHERE k.id = %(id)s AND k.revoked_at IS NULL AND t.disabled_at IS NULL",
            {"id": key_id},
        )
        if not rows:
            self._unknown.put(key_id, True, now)  # noqa: FBT003
            return None
        digest, tenant, scopes, expires_at, replay_undelivered = rows[0]
        identity = Identity(key_id, tenant, frozenset(scopes), replay_undelivered)
        stored = _Stored(bytes(digest), identity, expires_at)
        self._known.put(key_id, stored, now)
        return stored

    async def _rows(
        self, sql: LiteralString, params: Mapping[str, Any] | None = None
    ) -> builtins.list[builtins.tuple[Any, ...]]:
        """The rows of one statement, which is committed when this returns."""
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(sql, params)
                return await cursor.fetchall() if cursor.description else []
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            # The pool's own errors (timeout, closed, too many) are operational errors too.
            raise DatabaseUnavailable("API keys cannot be looked up: no database.") from error


def _info(row: builtins.tuple[Any, ...]) -> KeyInfo:
    key_id, tenant, scopes, *rest = row
    return KeyInfo(key_id, tenant, frozenset(scopes), *rest)
