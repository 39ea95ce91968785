"""Batches and their files as their tenants see them: PostgreSQL behind ``BatchBook``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.batches.batch import BatchFile, NewBatch, StoredBatch
from serve_app.domain.errors import Overloaded
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database, Lock
from serve_app.queue.batches.rows import BATCH, batch_of
from serve_app.queue.batches.work import PostgresBatchWork
from serve_app.queue.store import messages
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.insert import outcome_lock_number

RETRY_S = 60.0
"""When a tenant with too many batches may try again."""

# Under a lock of its tenant, so that two calls at once do not both find room.
CREATE = f"""
-- name: create_batch
WITH room AS (
    SELECT count(*) < %(most)s AS yes FROM (
        SELECT FROM batches WHERE tenant = %(tenant)s AND ended_at IS NULL LIMIT %(most)s) a
),
created AS (
    INSERT INTO batches (id, tenant, key_id, origin, endpoint, input_file, input_key, expires_at,
                         metadata, keep_outputs_s, webhook, max_cost, headers)
    SELECT %(id)s, %(tenant)s, %(key_id)s, %(origin)s, %(endpoint)s, %(input_file)s, %(input_key)s,
           now() + make_interval(secs => %(window_s)s), %(metadata)s::json,
           %(keep_outputs_s)s::double precision, %(webhook)s,
           %(max_cost)s, %(headers)s::json
    FROM room WHERE yes
    RETURNING *
)
SELECT {BATCH} FROM created b
"""
GET = f"SELECT {BATCH} FROM batches b WHERE b.tenant = %(tenant)s AND b.id = %(id)s"
PAGE = f"""
SELECT {BATCH} FROM batches b
WHERE b.tenant = %(tenant)s AND (%(after)s::text IS NULL OR (b.created_at, b.id) < (
    coalesce(%(after_at)s::timestamptz, (SELECT a.created_at FROM batches a
        WHERE a.id = %(after)s AND a.tenant = %(tenant)s)), %(after)s))
ORDER BY b.created_at DESC, b.id DESC LIMIT %(limit)s
"""
# A batch that is being validated has sent nothing, and ends at once.
CANCEL = f"""
-- name: cancel_batch
WITH stopped AS (
    UPDATE batches b SET stop = 'cancelled', cancelling_at = now(),
        status = CASE status WHEN 'validating' THEN 'cancelled' ELSE 'cancelling' END,
        ended_at = CASE status WHEN 'validating' THEN now() END
    WHERE tenant = %(tenant)s AND id = %(id)s AND stop IS NULL
      AND status IN ('validating', 'in_progress')
    RETURNING *
),
noted AS ({insert_audit("id", "stopped")})
SELECT {BATCH} FROM stopped b
"""
DELETE_AGED = """
-- name: delete_aged_batches
DELETE FROM batches WHERE id IN (
    SELECT id FROM batches
    WHERE ended_at < now() - make_interval(secs => coalesce(
        (%(own)s::jsonb ->> tenant)::double precision, %(usual_s)s::double precision))
    ORDER BY ended_at LIMIT 1000)
"""


# Files.

_FILE = "f.id, f.tenant, f.key, f.name, f.purpose, f.size, f.created_at, u.due_at, f.batch_id"
_FILES = "batch_files f JOIN uploads u ON u.key = f.key AND u.state = 'whole'"

# The upload is locked: it cannot become unwanted before there is a file to be forgotten.
ADD_FILE = """
-- name: add_batch_file
WITH whole AS (
    SELECT key, size, due_at FROM uploads
    WHERE key = %(key)s AND tenant = %(tenant)s AND state = 'whole' FOR SHARE
),
added AS (
    INSERT INTO batch_files (id, tenant, key, name, purpose, batch_id, size)
    SELECT %(id)s, %(tenant)s, key, %(name)s, %(purpose)s, %(batch)s, size FROM whole
    RETURNING *
)
SELECT f.id, f.tenant, f.key, f.name, f.purpose, f.size, f.created_at, w.due_at, f.batch_id
FROM added f JOIN whole w ON w.key = f.key
"""
_SHOWN = """(%(batches_of)s::text IS NULL OR f.batch_id IS NULL OR EXISTS (
    SELECT FROM batches b WHERE b.id = f.batch_id AND b.key_id = %(batches_of)s))"""
GET_FILE = f"""
SELECT {_FILE} FROM {_FILES} WHERE f.tenant = %(tenant)s AND f.id = %(id)s AND {_SHOWN}
"""
WRITTEN_BY = f"SELECT {_FILE} FROM {_FILES} WHERE f.batch_id = %(batch)s"
_FILE_PAGE = f"""
SELECT {_FILE} FROM {_FILES}
WHERE f.tenant = %(tenant)s AND (%(purpose)s::text IS NULL OR f.purpose = %(purpose)s)
  AND {_SHOWN}
  AND (%(after)s::text IS NULL OR (f.created_at, f.id) {{beyond}} (
      coalesce(%(after_at)s::timestamptz, (SELECT a.created_at FROM batch_files a
          WHERE a.id = %(after)s AND a.tenant = %(tenant)s)), %(after)s))
ORDER BY f.created_at {{order}}, f.id {{order}} LIMIT %(limit)s
"""
OLDEST_FILES = _FILE_PAGE.format(beyond=">", order="ASC")
NEWEST_FILES = _FILE_PAGE.format(beyond="<", order="DESC")


class PostgresBatchFiles:
    """Implements ``BatchFiles``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self, file_id: str, tenant: str, key: str, name: str, purpose: str, batch: str | None = None
    ) -> BatchFile | None:
        params = {
            "id": file_id,
            "tenant": tenant,
            "key": key,
            "name": messages.clean(name),
            "purpose": purpose,
            "batch": batch,
        }
        row = await self._database.row(ADD_FILE, params)
        return _file(row) if row else None

    async def get(
        self, tenant: str, file_id: str, batches_of: str | None = None
    ) -> BatchFile | None:
        params = {"tenant": tenant, "id": messages.clean(file_id), "batches_of": batches_of}
        row = await self._database.row(GET_FILE, params)
        return _file(row) if row else None

    async def page(
        self,
        tenant: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        after_at: datetime | None = None,
        limit: int = 20,
        ascending: bool = False,
        batches_of: str | None = None,
    ) -> Sequence[BatchFile]:
        params = {
            "tenant": tenant,
            "purpose": purpose,
            "after": None if after is None else messages.clean(after),
            "after_at": after_at,
            "limit": limit,
            "batches_of": batches_of,
        }
        rows = await self._database.rows(OLDEST_FILES if ascending else NEWEST_FILES, params)
        return [_file(row) for row in rows]

    async def written_by(self, batch: str) -> Sequence[BatchFile]:
        return [_file(row) for row in await self._database.rows(WRITTEN_BY, {"batch": batch})]


def _file(row: tuple[Any, ...]) -> BatchFile:
    return BatchFile(*row)


# Batches.


def too_many_batches(most_active: int) -> Overloaded:
    return Overloaded(
        f"{most_active} of your batches have not ended, and no more may run at once "
        "(DARKROOM_MAX_BATCHES_PER_TENANT). Wait for one to end, or cancel one.",
        RETRY_S,
        "batches_limit",
    )


class PostgresBatches:
    """Implements ``BatchBook``."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention
        self.files = PostgresBatchFiles(database)
        self.work = PostgresBatchWork(database)

    async def create(self, new: NewBatch, most_active: int) -> StoredBatch:
        params = {
            "id": new.id,
            "tenant": new.tenant,
            "key_id": new.key_id,
            "origin": new.origin,
            "endpoint": new.endpoint,
            "input_file": new.input_file,
            "input_key": new.input_key,
            "window_s": new.window_s,
            "metadata": None if new.metadata is None else messages.compact(new.metadata),
            "keep_outputs_s": new.keep_outputs_s,
            "webhook": new.webhook,
            "max_cost": new.max_cost,
            "headers": None if new.headers is None else messages.compact(new.headers),
            "most": most_active,
        }
        lock = Lock([outcome_lock_number(new.tenant, b"batches")])
        row = await self._database.row(CREATE, params, lock=lock)
        if not row:
            raise too_many_batches(most_active)
        return batch_of(row)

    async def get(self, tenant: str, batch: str) -> StoredBatch | None:
        params = {"tenant": tenant, "id": messages.clean(batch)}
        row = await self._database.row(GET, params)
        return batch_of(row) if row else None

    async def page(
        self,
        tenant: str,
        after: str | None = None,
        limit: int = 20,
        *,
        after_at: datetime | None = None,
    ) -> Sequence[StoredBatch]:
        last = None if after is None else messages.clean(after)
        params = {"tenant": tenant, "after": last, "after_at": after_at, "limit": limit}
        return [batch_of(row) for row in await self._database.rows(PAGE, params)]

    async def cancel(self, tenant: str, batch: str, actor: Actor) -> StoredBatch | None:
        params = {
            "tenant": tenant,
            "id": messages.clean(batch),
            **audit_params(actor, "batch.cancel", tenant=tenant),
        }
        row = await self._database.row(CANCEL, params)
        return batch_of(row) if row else await self.get(tenant, batch)

    async def delete_aged(self) -> None:
        """Delete batches that ended longer ago than their tenant's retention. Their files age as
        all uploads do. Call it periodically."""
        if not self._retention.any:
            return
        own = {tenant: self._retention.age_s(tenant) for tenant in self._retention.tenants}
        usual = self._retention.days
        params = {
            "own": messages.compact({name: age for name, age in own.items() if age is not None}),
            "usual_s": None if usual is None else usual * 86400.0,
        }
        await self._database.rows(DELETE_AGED, params)
