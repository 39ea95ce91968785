"""Files of batches: PostgreSQL behind the port ``BatchFiles``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.domain.batch import BatchFile
from serve_app.postgres.database import Database
from serve_app.queue.store import messages

_COLUMNS = "f.id, f.tenant, f.key, f.name, f.purpose, f.size, f.created_at, u.due_at, f.batch_id"
_SOURCE = "batch_files f JOIN uploads u ON u.key = f.key AND u.state = 'whole'"

# The upload is locked: it cannot become unwanted before there is a file to be forgotten.
ADD = """
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
GET = f"SELECT {_COLUMNS} FROM {_SOURCE} WHERE f.tenant = %(tenant)s AND f.id = %(id)s"
WRITTEN_BY = f"SELECT {_COLUMNS} FROM {_SOURCE} WHERE f.batch_id = %(batch)s"
_PAGE = f"""
SELECT {_COLUMNS} FROM {_SOURCE}
WHERE f.tenant = %(tenant)s AND (%(purpose)s::text IS NULL OR f.purpose = %(purpose)s)
  AND (%(after)s::text IS NULL OR (f.created_at, f.id) {{beyond}} (
      SELECT a.created_at, a.id FROM batch_files a
      WHERE a.id = %(after)s AND a.tenant = %(tenant)s))
ORDER BY f.created_at {{order}}, f.id {{order}} LIMIT %(limit)s
"""
OLDEST = _PAGE.format(beyond=">", order="ASC")
NEWEST = _PAGE.format(beyond="<", order="DESC")


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
        rows = await self._database.rows(ADD, params)
        return _file(rows[0]) if rows else None

    async def get(self, tenant: str, file_id: str) -> BatchFile | None:
        params = {"tenant": tenant, "id": messages.clean(file_id)}
        rows = await self._database.rows(GET, params)
        return _file(rows[0]) if rows else None

    async def page(
        self,
        tenant: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 20,
        ascending: bool = False,
    ) -> Sequence[BatchFile]:
        params = {
            "tenant": tenant,
            "purpose": purpose,
            "after": None if after is None else messages.clean(after),
            "limit": limit,
        }
        rows = await self._database.rows(OLDEST if ascending else NEWEST, params)
        return [_file(row) for row in rows]

    async def written_by(self, batch: str) -> Sequence[BatchFile]:
        return [_file(row) for row in await self._database.rows(WRITTEN_BY, {"batch": batch})]


def _file(row: tuple[Any, ...]) -> BatchFile:
    return BatchFile(*row)
