"""Deleting the files of ended requests when their clients said: PostgreSQL behind the port
``Lifecycles``. The requests stay, and answer with the URLs of files that are gone.
"""

from __future__ import annotations

from serve_app.queue.database import Database

AT_ONCE = 200

KEEP = """
INSERT INTO lifecycles (request_id, keep_s) VALUES (%(id)s::uuid, %(keep_s)s::float8)
ON CONFLICT (request_id) DO NOTHING
"""
SEE_ENDS = """
UPDATE lifecycles l SET due_at = r.finished_at + make_interval(secs => l.keep_s)
FROM requests r
WHERE l.due_at IS NULL AND r.id = l.request_id AND r.finished_at IS NOT NULL
"""
EXPIRE = """
WITH due AS (
    SELECT request_id FROM lifecycles WHERE due_at <= now()
    ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
),
unmade AS (
    DELETE FROM artifacts a USING due d WHERE a.request_id = d.request_id RETURNING a.key
),
noted AS (
    INSERT INTO unwanted (key, due_at) SELECT key, now() FROM unmade ON CONFLICT (key) DO NOTHING
)
DELETE FROM lifecycles l USING due d WHERE l.request_id = d.request_id
RETURNING l.request_id::text
"""
# Of requests that were never stored, or were deleted since.
FORGET = """
DELETE FROM lifecycles l
WHERE l.due_at IS NULL AND l.created_at < now() - interval '1 day'
  AND NOT EXISTS (SELECT FROM requests r WHERE r.id = l.request_id)
"""


class PostgresLifecycles:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, request_id: str, keep_s: float) -> None:
        await self._database.rows(KEEP, {"id": request_id, "keep_s": keep_s})

    async def expire(self) -> None:
        """Have the files deleted whose time is over."""
        await self._database.rows(SEE_ENDS)
        while len(await self._database.rows(EXPIRE, {"most": AT_ONCE})) == AT_ONCE:
            pass
        await self._database.rows(FORGET)
