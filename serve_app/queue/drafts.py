"""Drafts that requests can go on from: PostgreSQL behind the port ``DraftBook``. Rows are written
with the end of the request that made them, and deleted with it; those in use expire with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.media.draft import HELD_S, DraftOrigin, DraftSpace, StoredDraft
from serve_app.jobs.postgres import put_files
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.rows import known_id

BATCH_SIZE = 200
NEWEST_LOOKED_AT = 256  # a tenant may have tens of thousands

_COLUMNS = """
    d.id, d.tenant, d.request_id::text, r.endpoint, d.key, d.size, d.facts, d.created_at,
    d.expires_at
"""
_FROM = "FROM drafts d JOIN requests r ON r.id = d.request_id"
_OWN = f"""
{_FROM}
WHERE d.tenant = %(tenant)s AND d.expires_at > now()
"""
USED = """
-- name: count_drafts
SELECT coalesce(sum(size), 0)::bigint FROM drafts
WHERE tenant = %(tenant)s AND expires_at > now()
"""
SPACE = f"""
-- name: space_of_drafts
SELECT
    (SELECT coalesce(sum(size), 0)::bigint FROM drafts
     WHERE tenant = %(tenant)s AND expires_at > now()),
    (SELECT coalesce(sum(draft_bytes), 0)::bigint FROM requests
     WHERE tenant = %(tenant)s AND draft_bytes IS NOT NULL AND outcome IS NULL),
    (SELECT coalesce(max(d.size), 0) FROM (
        SELECT request_id, size FROM drafts WHERE tenant = %(tenant)s
        ORDER BY created_at DESC, id DESC LIMIT {NEWEST_LOOKED_AT}) d
     JOIN requests r ON r.id = d.request_id WHERE r.endpoint = %(endpoint)s)
"""
# The whole input, of which `shown` is the short form. A request that keeps no input has no drafts.
OPEN = f"""
-- name: open_draft
WITH held AS (
    UPDATE drafts SET held_until = now() + make_interval(secs => %(held_s)s)
    WHERE id = %(id)s AND tenant = %(tenant)s AND expires_at > now()
    RETURNING id
)
SELECT {_COLUMNS}, r.input, r.endpoint_digest {_FROM} WHERE d.id IN (SELECT id FROM held)
"""
LOOK = f"""
-- name: look_at_draft
SELECT {_COLUMNS}, r.input, r.endpoint_digest {_OWN} AND d.id = %(id)s
"""
GET = f"SELECT {_COLUMNS} {_OWN} AND d.id = %(id)s"
NEWEST = f"SELECT {_COLUMNS} {_OWN} {{also}} ORDER BY d.created_at DESC, d.id DESC LIMIT %(limit)s"
BEFORE = "AND (d.created_at, d.id) < (%(at)s, %(id)s)"
OF_ENDPOINTS = "AND r.endpoint LIKE ANY(%(endpoints)s::text[])"
OF_REQUEST = "AND d.request_id = %(request)s::uuid"
_UNFINISHED = "EXISTS (SELECT FROM requests r WHERE r.draft_key = d.key AND r.outcome IS NULL)"
# As the trigger `forget_drafts`: one in use is not found any more, and `EXPIRE` deletes it.
DELETE = f"""
-- name: delete_draft
WITH own AS (
    SELECT d.id, d.key, coalesce(d.held_until > now(), false) OR {_UNFINISHED} AS used
    FROM drafts d
    WHERE d.id = %(id)s AND d.tenant = %(tenant)s AND d.expires_at > now()
    FOR UPDATE OF d
),
outdated AS (UPDATE drafts d SET expires_at = now() FROM own o WHERE d.id = o.id AND o.used),
gone AS (
    DELETE FROM drafts d USING own o WHERE d.id = o.id AND NOT o.used RETURNING d.key
),
unneeded AS (
    {put_files("gone")}
),
noted AS ({insert_audit("id", "own")})
SELECT id FROM own
"""
# One that an unfinished request goes on from stays, and is looked at again in the next round.
EXPIRE = f"""
-- name: expire_drafts
WITH due AS (
    SELECT d.id, d.key FROM drafts d
    WHERE d.expires_at <= now() AND (d.held_until IS NULL OR d.held_until <= now())
      AND NOT {_UNFINISHED}
    ORDER BY d.expires_at LIMIT %(most)s FOR UPDATE OF d SKIP LOCKED
),
gone AS (DELETE FROM drafts d USING due u WHERE d.id = u.id RETURNING d.key),
unneeded AS (
    {put_files("gone")}
)
SELECT count(*) FROM gone
"""


class PostgresDrafts:
    """Implements ``DraftBook``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def used_bytes(self, tenant: str) -> int:
        return await self._database.value(USED, {"tenant": tenant})

    async def space(self, tenant: str, endpoint: str) -> DraftSpace:
        params = {"tenant": tenant, "endpoint": endpoint}
        ((used, coming, largest),) = await self._database.rows(SPACE, params)
        return DraftSpace(used, coming, largest)

    async def open(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        params = {"tenant": tenant, "id": messages.clean(draft_id), "held_s": HELD_S}
        return _origin(await self._database.rows(OPEN, params))

    async def look(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        params = {"tenant": tenant, "id": messages.clean(draft_id)}
        return _origin(await self._database.rows(LOOK, params))

    async def get(self, tenant: str, draft_id: str) -> StoredDraft | None:
        params = {"tenant": tenant, "id": messages.clean(draft_id)}
        row = await self._database.row(GET, params)
        return _draft(row) if row else None

    async def newest(
        self,
        tenant: str,
        limit: int,
        before: tuple[datetime, str] | None = None,
        *,
        endpoints: Collection[str] = (),
        request_id: str | None = None,
    ) -> Sequence[StoredDraft]:
        params: dict[str, Any] = {"tenant": tenant, "limit": limit}
        also: list[str] = []
        if before is not None:
            params["at"], params["id"] = before
            also.append(BEFORE)
        if endpoints:
            params["endpoints"] = [_like(endpoint) for endpoint in endpoints]
            also.append(OF_ENDPOINTS)
        if request_id is not None:
            params["request"] = known_id(request_id)
            also.append(OF_REQUEST)
        rows = await self._database.rows(NEWEST.format(also=" ".join(also)), params)
        return [_draft(row) for row in rows]

    async def delete(self, tenant: str, draft_id: str, actor: Actor | None = None) -> bool:
        params = {
            "tenant": tenant,
            "id": messages.clean(draft_id),
            **audit_params(actor, "draft.delete", tenant=tenant),
        }
        return bool(await self._database.rows(DELETE, params))

    async def expire(self) -> None:
        """Delete the drafts that have expired, but none that an unfinished request goes on from.
        Call it periodically."""
        gone = BATCH_SIZE
        while gone == BATCH_SIZE:
            gone = await self._database.value(EXPIRE, {"most": BATCH_SIZE})


def _like(pattern: str) -> str:
    """Pattern of ``LIKE`` for one of endpoints."""
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, f"\\{special}")
    return messages.clean(pattern.replace("*", "%"))


def _origin(rows: Sequence[tuple[Any, ...]]) -> DraftOrigin | None:
    if not rows:
        return None
    *columns, input_, digest = rows[0]
    return DraftOrigin(_draft(tuple(columns)), input_, digest)


def _draft(row: tuple[Any, ...]) -> StoredDraft:
    id_, tenant, request_id, endpoint, key, size, facts, created_at, expires_at = row
    return StoredDraft(
        id=id_,
        tenant=tenant,
        request_id=request_id,
        endpoint=endpoint,
        key=key,
        size=size,
        seed=facts["seed"],
        step=facts["step"],
        steps=facts["steps"],
        noise=facts["noise"],
        created_at=created_at,
        expires_at=expires_at,
    )
