"""Files uploaded by clients: PostgreSQL behind the port ``UploadBook``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.upload import KeptFile, Upload, UploadPart, UploadUse
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.config import Retention

ABANDONED_S = 6 * 3600.0
"""Seconds without a call after which an open upload is abandoned. A single part may take as
long.
"""

AGAIN_S = 300.0
"""Seconds after which another process retries a deletion: the one that took it may have died."""

AT_ONCE = 200  # by age, in one statement
MAX_STATEMENTS = 500  # in one call

COLUMNS = "u.key, u.id, u.tenant, u.media_type, u.keep_s, u.parts_id, u.size, u.key_id"

OPEN = """
-- name: open_upload
INSERT INTO uploads (key, id, tenant, media_type, keep_s, parts_id, key_id, metadata, due_at)
VALUES (%(key)s, %(id)s, %(tenant)s, %(media_type)s, %(keep_s)s::float8, %(parts_id)s, %(key_id)s,
        %(metadata)s::json, now() + make_interval(secs => %(abandoned_s)s))
"""
# Open uploads are few: a quota bounds them.
USED = """
-- name: count_uploads
SELECT coalesce((SELECT bytes FROM upload_totals WHERE tenant = %(tenant)s), 0) + coalesce((
           SELECT sum(p.size) FROM uploads o JOIN upload_parts p ON p.key = o.key
           WHERE o.tenant = %(tenant)s AND o.state = 'open'), 0)::bigint,
       (SELECT count(*) FROM uploads WHERE tenant = %(tenant)s AND state = 'open')
"""
TOTALS = "SELECT tenant, bytes FROM upload_totals WHERE tenant = ANY(%(tenants)s::text[])"
FIND = f"""
-- name: find_upload
UPDATE uploads u SET due_at = CASE u.state
    WHEN 'open' THEN now() + make_interval(secs => %(abandoned_s)s) ELSE u.due_at END
WHERE u.key = %(key)s AND u.id = %(id)s AND u.state <> 'unwanted'
RETURNING {COLUMNS}
"""
ADD_PART = """
-- name: add_part
INSERT INTO upload_parts (key, number, etag, size)
SELECT key, %(number)s::integer, %(etag)s, %(size)s::bigint FROM uploads
WHERE key = %(key)s AND state = 'open'
ON CONFLICT (key, number) DO UPDATE SET etag = excluded.etag, size = excluded.size
RETURNING size
"""
PARTS_BYTES = "SELECT coalesce(sum(size), 0)::bigint FROM upload_parts WHERE key = %(key)s"
PARTS = "SELECT number, etag, size FROM upload_parts WHERE key = %(key)s ORDER BY number"
FINISH = """
-- name: finish_upload
WITH whole AS (
    UPDATE uploads SET state = 'whole', size = %(size)s::bigint,
        due_at = CASE state WHEN 'open' THEN now() + make_interval(secs => keep_s) ELSE due_at END
    WHERE key = %(key)s AND state <> 'unwanted'
    RETURNING key
),
joined AS (DELETE FROM upload_parts p USING whole w WHERE p.key = w.key)
SELECT key FROM whole
"""
GIVE_UP = "UPDATE uploads SET state = 'unwanted', due_at = now() WHERE key = %(key)s"
# A result of a batch whose rows are deleted is of no key.
_SHOWN = """
  AND (%(batches_of)s::text IS NULL OR NOT EXISTS (
      SELECT FROM batch_files f LEFT JOIN batches b ON b.id = f.batch_id
      WHERE f.key = uploads.key AND f.batch_id IS NOT NULL
        AND b.key_id IS DISTINCT FROM %(batches_of)s))
"""
DISOWN = f"""
-- name: delete_upload
WITH gone AS (
    UPDATE uploads SET state = 'unwanted', due_at = now()
    WHERE key = %(key)s AND tenant = %(tenant)s AND state <> 'unwanted' {_SHOWN}
    RETURNING key
),
noted AS ({insert_audit("key", "gone")})
SELECT key FROM gone
"""
_KEPT = f"""
SELECT key, media_type, size, created_at, due_at, coalesce(metadata, '{{}}') FROM uploads
WHERE tenant = %(tenant)s AND state = 'whole' {_SHOWN}
"""
KEPT = _KEPT + "AND key = %(key)s"
PAGE = _KEPT + "ORDER BY created_at DESC, key DESC LIMIT %(limit)s"
NEXT_PAGE = (
    _KEPT
    + """
  AND (created_at, key) < (%(at)s::timestamptz, %(key)s)
ORDER BY created_at DESC, key DESC LIMIT %(limit)s
"""
)
READ_BY = """
SELECT id FROM batches
WHERE tenant = %(tenant)s AND input_key = %(key)s AND ended_at IS NULL LIMIT 1
"""
# One that a new file of a batch holds is aged in the next round.
MARK_AGED = """
-- name: age_uploads
UPDATE uploads SET state = 'unwanted', due_at = now()
WHERE key = ANY(ARRAY(
    SELECT key FROM uploads
    WHERE tenant = %(tenant)s AND state = 'whole'
      AND created_at < now() - make_interval(secs => %(age_s)s)
    ORDER BY created_at LIMIT %(most)s FOR UPDATE SKIP LOCKED))
RETURNING key
"""
TAKE = f"""
-- name: take_uploads
UPDATE uploads u SET state = 'unwanted', due_at = now() + make_interval(secs => %(again_s)s)
WHERE u.key IN (
    SELECT key FROM uploads WHERE due_at <= now()
    ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)
RETURNING {COLUMNS}
"""
FORGET = """
DELETE FROM uploads
WHERE state = 'unwanted' AND key IN (SELECT json_array_elements_text(%(keys)s::json))
"""
# One index step per tenant.
TENANTS = """
WITH RECURSIVE owner AS (
    (SELECT tenant FROM uploads WHERE state = 'whole' ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT u.tenant FROM uploads u WHERE u.state = 'whole' AND u.tenant > o.tenant
            ORDER BY u.tenant LIMIT 1)
    FROM owner o WHERE o.tenant IS NOT NULL
)
SELECT tenant FROM owner WHERE tenant IS NOT NULL
"""


class PostgresUploads:
    """Implements ``UploadBook``."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention

    async def open(self, upload: Upload) -> None:
        await self._database.rows(
            OPEN,
            {
                "key": upload.key,
                "id": upload.id,
                "tenant": upload.tenant,
                "media_type": upload.media_type,
                "keep_s": upload.keep_s,
                "parts_id": upload.parts_id,
                "key_id": upload.key_id,
                "metadata": messages.compact(upload.metadata) if upload.metadata else None,
                "abandoned_s": ABANDONED_S,
            },
        )

    async def usage(self, tenant: str) -> UploadUse:
        ((size, opened),) = await self._database.rows(USED, {"tenant": tenant})
        return UploadUse(size, opened)

    async def totals(self, tenants: Sequence[str]) -> Mapping[str, int]:
        rows = await self._database.rows(TOTALS, {"tenants": list(tenants)})
        return dict(rows)

    async def find(self, key: str, upload_id: str) -> Upload | None:
        params = {"key": key, "id": upload_id, "abandoned_s": ABANDONED_S}
        uploads = _uploads(await self._database.rows(FIND, params))
        return uploads[0] if uploads else None

    async def add_part(self, key: str, part: UploadPart) -> int | None:
        added = {"key": key, "number": part.number, "etag": part.etag, "size": part.size}
        if not await self._database.rows(ADD_PART, added):
            return None
        # A separate statement: the one before does not see its own writes.
        return await self._database.value(PARTS_BYTES, {"key": key})

    async def parts(self, key: str) -> Mapping[int, UploadPart]:
        rows = await self._database.rows(PARTS, {"key": key})
        return {number: UploadPart(number, etag, size) for number, etag, size in rows}

    async def finish(self, key: str, size: int) -> bool:
        return bool(await self._database.rows(FINISH, {"key": key, "size": size}))

    async def abandon(self, key: str) -> None:
        await self._database.rows(GIVE_UP, {"key": key})

    async def delete(
        self, tenant: str, key: str, actor: Actor | None = None, batches_of: str | None = None
    ) -> bool:
        params = {
            "tenant": tenant,
            "key": key,
            "batches_of": batches_of,
            **audit_params(actor, "upload.delete", tenant=tenant),
        }
        return bool(await self._database.rows(DISOWN, params))

    async def find_file(
        self, tenant: str, key: str, batches_of: str | None = None
    ) -> KeptFile | None:
        params = {"tenant": tenant, "key": key, "batches_of": batches_of}
        row = await self._database.row(KEPT, params)
        return self._file_of_row(tenant, row) if row else None

    async def page(
        self,
        tenant: str,
        *,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
        batches_of: str | None = None,
    ) -> Sequence[KeptFile]:
        params: dict[str, Any] = {"tenant": tenant, "limit": limit, "batches_of": batches_of}
        if before is not None:
            params["at"], params["key"] = before
        rows = await self._database.rows(NEXT_PAGE if before else PAGE, params)
        return [self._file_of_row(tenant, row) for row in rows]

    async def read_by(self, tenant: str, key: str) -> str | None:
        value = await self._database.value(READ_BY, {"tenant": tenant, "key": key})
        return None if value is None else str(value)

    def _file_of_row(self, tenant: str, row: tuple[Any, ...]) -> KeptFile:
        key, media_type, size, created_at, due_at, metadata = row
        age_s = self._retention.upload_age_s(tenant)
        if due_at is None and age_s is not None:
            due_at = created_at + timedelta(seconds=age_s)
        return KeptFile(key, media_type, size, created_at, due_at, metadata)

    async def mark_aged(self) -> None:
        if not self._retention.any_upload:
            return
        left = MAX_STATEMENTS
        for (tenant,) in await self._database.rows(TENANTS):
            age_s = self._retention.upload_age_s(tenant)
            while age_s is not None and left > 0:
                left -= 1
                aged = {"tenant": tenant, "age_s": age_s, "most": AT_ONCE}
                if len(await self._database.rows(MARK_AGED, aged)) < AT_ONCE:
                    break

    async def take_unwanted(self, most: int) -> Sequence[Upload]:
        return _uploads(await self._database.rows(TAKE, {"again_s": AGAIN_S, "most": most}))

    async def forget(self, keys: Sequence[str]) -> None:
        await self._database.rows(FORGET, {"keys": messages.compact(list(keys))})


def _uploads(rows: Sequence[tuple[Any, ...]]) -> list[Upload]:
    return [Upload(*row) for row in rows]
