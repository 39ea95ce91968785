"""Objects in storage that nobody wants any more: written down with what made them so, deleted
later by whoever comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.queue import wording
from serve_app.queue.database import Database

AGAIN_S = 300.0
"""After so long another process tries: who took them may have died."""

TAKE = """
UPDATE unwanted SET due_at = now() + make_interval(secs => %(again_s)s)
WHERE key IN (
    SELECT key FROM unwanted WHERE due_at <= now()
    ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED)
RETURNING key
"""
FORGET = """
DELETE FROM unwanted WHERE key IN (SELECT json_array_elements_text(%(keys)s::json))
"""


class Unwanted:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, most: int) -> Sequence[str]:
        """Keys to delete now. Unless they are forgotten, they come again some minutes later."""
        rows = await self._database.rows(TAKE, {"again_s": AGAIN_S, "most": most})
        return [key for (key,) in rows]

    async def forget(self, keys: Sequence[str]) -> None:
        """They are deleted."""
        await self._database.rows(FORGET, {"keys": wording.compact(list(keys))})
