"""Drafts that requests can go on from: PostgreSQL behind the port ``DraftBook``. Rows are written
with the end of the request that made them, and deleted with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from serve_app.domain.media.draft import HELD_S, DraftOrigin, StoredDraft
from serve_app.domain.operations import Actor
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.rows import audit_columns

BATCH_SIZE = 200

_COLUMNS = """
    d.id, d.tenant, d.request_id::text, r.endpoint, d.key, d.size, d.facts, d.created_at,
    d.expires_at
"""
_OWN = """
FROM drafts d JOIN requests r ON r.id = d.request_id
WHERE d.tenant = %(tenant)s AND d.expires_at > now()
"""
USED = """
-- name: count_drafts
SELECT coalesce(sum(size), 0)::bigint FROM drafts
WHERE tenant = %(tenant)s AND expires_at > now()
"""
# The whole input, of which `shown` is the short form. A request that keeps no input has no drafts.
OPEN = f"""
-- name: open_draft
WITH held AS (
    UPDATE drafts SET held_until = now() + make_interval(secs => %(held_s)s)
    WHERE id = %(id)s AND tenant = %(tenant)s AND expires_at > now()
    RETURNING id
)
SELECT {_COLUMNS}, r.input, r.endpoint_digest {_OWN} AND d.id IN (SELECT id FROM held)
"""
LOOK = f"""
-- name: look_at_draft
SELECT {_COLUMNS}, r.input, r.endpoint_digest {_OWN} AND d.id = %(id)s
"""
GET = f"SELECT {_COLUMNS} {_OWN} AND d.id = %(id)s"
_NEWEST = f"SELECT {_COLUMNS} {_OWN} {{also}} ORDER BY d.created_at DESC, d.id DESC LIMIT %(limit)s"
NEWEST = _NEWEST.format(also="")
NEXT = _NEWEST.format(also="AND (d.created_at, d.id) < (%(at)s, %(id)s)")
DELETE = """
-- name: delete_draft
WITH gone AS (
    DELETE FROM drafts WHERE id = %(id)s AND tenant = %(tenant)s AND expires_at > now()
    RETURNING id, key
),
unneeded AS (
    INSERT INTO unwanted (key, due_at) SELECT key, now() FROM gone ON CONFLICT (key) DO NOTHING
),
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, 'draft.delete', id, %(detail)s::json FROM gone
    WHERE %(actor)s::text IS NOT NULL
)
SELECT id FROM gone
"""
# One that an unfinished request goes on from stays, and is looked at again in the next round.
EXPIRE = """
-- name: expire_drafts
WITH due AS (
    SELECT d.id, d.key FROM drafts d
    WHERE d.expires_at <= now() AND (d.held_until IS NULL OR d.held_until <= now())
      AND NOT EXISTS (
          SELECT FROM requests r WHERE r.draft_key = d.key AND r.outcome IS NULL)
    ORDER BY d.expires_at LIMIT %(most)s FOR UPDATE OF d SKIP LOCKED
),
gone AS (DELETE FROM drafts d USING due u WHERE d.id = u.id RETURNING d.key),
unneeded AS (
    INSERT INTO unwanted (key, due_at) SELECT key, now() FROM gone ON CONFLICT (key) DO NOTHING
)
SELECT count(*) FROM gone
"""


class PostgresDrafts:
    """Implements ``DraftBook``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def used(self, tenant: str) -> int:
        ((size,),) = await self._database.rows(USED, {"tenant": tenant})
        return size

    async def open(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        params = {"tenant": tenant, "id": messages.clean(draft_id), "held_s": HELD_S}
        return _origin(await self._database.rows(OPEN, params))

    async def look(self, tenant: str, draft_id: str) -> DraftOrigin | None:
        params = {"tenant": tenant, "id": messages.clean(draft_id)}
        return _origin(await self._database.rows(LOOK, params))

    async def get(self, tenant: str, draft_id: str) -> StoredDraft | None:
        params = {"tenant": tenant, "id": messages.clean(draft_id)}
        rows = await self._database.rows(GET, params)
        return _draft(rows[0]) if rows else None

    async def newest(
        self, tenant: str, limit: int, before: tuple[datetime, str] | None = None
    ) -> Sequence[StoredDraft]:
        params: dict[str, Any] = {"tenant": tenant, "limit": limit}
        if before is not None:
            params["at"], params["id"] = before
        rows = await self._database.rows(NEXT if before else NEWEST, params)
        return [_draft(row) for row in rows]

    async def delete(self, tenant: str, draft_id: str, actor: Actor | None = None) -> bool:
        params = {
            "tenant": tenant,
            "id": messages.clean(draft_id),
            "detail": messages.compact({"tenant": tenant}),
            **audit_columns(actor),
        }
        return bool(await self._database.rows(DELETE, params))

    async def expire(self) -> None:
        """Delete the drafts that have expired, but none that an unfinished request goes on from.
        Call it periodically."""
        gone = BATCH_SIZE
        while gone == BATCH_SIZE:
            ((gone,),) = await self._database.rows(EXPIRE, {"most": BATCH_SIZE})


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
