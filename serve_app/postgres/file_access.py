"""Access rules of private files and revoked URLs, in the database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString

from serve_app.domain.audit.acts import Actor
from serve_app.domain.media.file_access import AccessDecision, FileAccess, Revocation
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database, Lock

LOCK = 0x66696C  # "fil": lock of revocations, one at a time

MAX_RULES_PER_TENANT = 10_000
"""Different access rules that a tenant may have used. Every ingress keeps them in memory."""
MAX_REVOCATIONS_PER_TENANT = 10_000
"""Revoked single URLs of a tenant that have not expired. Every ingress holds all of them."""
AT_ONCE = 10_000

FIND: LiteralString = """
-- name: find_file_access
SELECT tenant, rules FROM file_access WHERE id = %(id)s
"""
PAGE: LiteralString = """
-- name: list_file_access
SELECT id, tenant, rules FROM file_access WHERE tenant = %(tenant)s AND id > %(after)s
ORDER BY id LIMIT %(limit)s::integer
"""
KEEP: LiteralString = """
-- name: keep_file_access
INSERT INTO file_access (id, tenant, rules)
SELECT %(id)s, %(tenant)s, %(rules)s::jsonb
WHERE (SELECT count(*) FROM file_access WHERE tenant = %(tenant)s) < %(most)s
ON CONFLICT (id) DO NOTHING
"""
REVOKE: LiteralString = f"""
-- name: revoke_file_url
WITH revoked AS (
    INSERT INTO file_url_revocations (key, signature, number, tenant, generation, expires_at)
    SELECT %(key)s, %(signature)s, nextval('file_url_revocation_numbers'), %(tenant)s,
           CASE %(signature)s WHEN '' THEN 1 ELSE 0 END, %(expires_at)s::timestamptz
    WHERE %(signature)s = '' OR (
        SELECT count(*) FROM file_url_revocations
        WHERE tenant = %(tenant)s AND signature <> '') < %(most)s
    ON CONFLICT (key, signature) DO UPDATE SET
        number = excluded.number, revoked_at = now(),
        generation = file_url_revocations.generation + excluded.generation
    RETURNING key
),
noted AS ({insert_audit("key", "revoked")})
SELECT key FROM revoked
"""
REVOCATIONS: LiteralString = """
-- name: read_revocations
SELECT number, key, signature, generation, expires_at FROM file_url_revocations
WHERE number > %(after)s ORDER BY number LIMIT %(most)s
"""
# A key is not used again, so what is revoked of a file that is gone says nothing any more.
FORGET: LiteralString = """
-- name: forget_revocations
DELETE FROM file_url_revocations r
WHERE r.expires_at < now() - interval '1 hour'
   OR (NOT EXISTS (SELECT FROM artifacts a WHERE a.key = r.key)
       AND NOT EXISTS (SELECT FROM uploads u WHERE u.key = r.key))
"""


class PostgresFileAccess:
    """Implements ``FileAccessBook``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, access: FileAccess) -> bool:
        rules = {"default": access.default, "users": dict(access.users)}
        params = {
            "id": access.id,
            "tenant": access.tenant,
            "rules": json.dumps(rules),
            "most": MAX_RULES_PER_TENANT,
        }
        await self._database.rows(KEEP, params)
        # A statement of its own: an insert that waited for another one does not see its row.
        return await self.find(access.id) is not None

    async def find(self, access_id: str) -> FileAccess | None:
        row = await self._database.row(FIND, {"id": access_id})
        return _access(access_id, *row) if row else None

    async def page(self, tenant: str, after: str, limit: int) -> Sequence[FileAccess]:
        params = {"tenant": tenant, "after": after, "limit": limit}
        return [_access(*row) for row in await self._database.rows(PAGE, params)]

    async def revoke(
        self,
        tenant: str,
        key: str,
        signature: str,
        expires_at: datetime | None,
        actor: Actor,
    ) -> bool:
        params = {
            "tenant": tenant,
            "key": key,
            "signature": signature,
            "expires_at": expires_at,
            "most": MAX_REVOCATIONS_PER_TENANT,
            **audit_params(actor, "file.revoke", tenant=tenant, urls="one" if signature else "all"),
        }
        return bool(await self._database.rows(REVOKE, params, lock=Lock((LOCK,))))

    async def revocations(self, after: int) -> Sequence[Revocation]:
        rows = await self._database.rows(REVOCATIONS, {"after": after, "most": AT_ONCE})
        return [Revocation(*row) for row in rows]

    async def forget(self) -> None:
        await self._database.rows(FORGET)


def _access(id_: str, tenant: str, rules: dict[str, Any]) -> FileAccess:
    users = {user: AccessDecision(decision) for user, decision in rules["users"].items()}
    return FileAccess(tenant, AccessDecision(rules["default"]), users, keyed_id=id_)
