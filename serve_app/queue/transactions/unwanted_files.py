"""Objects in storage that are no longer needed. They are recorded in the transaction that made them
unneeded, and deleted later by any process."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.postgres.database import Database
from serve_app.queue.store import messages

AGAIN_S = 300.0
"""Seconds after which another process retries: the one that took the keys may have died."""

# A file of an executor may be due while its attempt still runs, and one that was asked for again at
# the moment of its success may still be marked.
TAKE = """
-- name: take_garbage
WITH due AS MATERIALIZED (
    SELECT key, regexp_match(
        key, '(?:^|/)r/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9]{1,9})/') AS made
    FROM unwanted WHERE due_at <= now()
    ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
),
later AS (
    UPDATE unwanted u SET due_at = now() + make_interval(secs => %(again_s)s)
    FROM due d WHERE u.key = d.key
)
SELECT d.key FROM due d
WHERE NOT EXISTS (SELECT FROM artifacts a WHERE a.key = d.key)
  AND NOT EXISTS (
    SELECT FROM requests r WHERE r.id = d.made[1]::uuid AND r.attempt = d.made[2]::integer
    AND r.lease_until IS NOT NULL)
"""
FORGET = """
DELETE FROM unwanted WHERE key IN (SELECT json_array_elements_text(%(keys)s::json))
"""


class UnwantedFiles:
    """Keys of objects to delete."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, most: int) -> Sequence[str]:
        """Take keys to delete now. Unless they are forgotten, they are returned again after
        ``AGAIN_S``.
        """
        rows = await self._database.rows(TAKE, {"again_s": AGAIN_S, "most": most})
        return [key for (key,) in rows]

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove the keys of deleted objects."""
        await self._database.rows(FORGET, {"keys": messages.compact(list(keys))})
