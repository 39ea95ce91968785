"""Objects in storage that are no longer needed. A job is put in the transaction that made them
unneeded; the statements do so themselves."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.postgres.database import Database, LongTexts

# A file of an executor may be due while its attempt still runs, and one that was asked for again at
# the moment of its success may still have a job.
NEEDED = """
-- name: needed_files
SELECT x.key FROM unnest(%(keys)s::text[]) AS x(key) CROSS JOIN LATERAL regexp_match(
    x.key, '(?:^|/)r/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9]{1,9})/') AS made
WHERE EXISTS (SELECT FROM artifacts a WHERE a.key = x.key) OR EXISTS (
    SELECT FROM requests r WHERE r.id = made[1]::uuid AND r.attempt = made[2]::integer
    AND r.lease_until IS NOT NULL)
"""


class UnwantedFiles:
    """Keys of objects to delete."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def needed_keys(self, keys: Sequence[str]) -> frozenset[str]:
        """Keys that must not be deleted yet."""
        rows = await self._database.rows(NEEDED, {"keys": LongTexts(keys)})
        return frozenset(key for (key,) in rows)
