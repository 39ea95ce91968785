"""Sums of stored files, by the records of the database: PostgreSQL behind ``StoredFiles``."""

from __future__ import annotations

import asyncio

from serve_app.domain.artifact import StorageUse, StoredSum
from serve_app.domain.ports import Clock
from serve_app.postgres.fair_reads import FairReads

FRESH_S = 60.0
"""The sums read whole tables, so each process makes them at most this often."""

# Files in buckets of clients have their whole URLs as keys.
SUMS = """
-- name: sum_stored_files
SELECT tenant, CASE WHEN thumbnail_of IS NOT NULL THEN 'thumbnail'
           WHEN split_part(media_type, '/', 1) IN ('image', 'video', 'audio')
           THEN split_part(media_type, '/', 1) ELSE 'other' END AS kind, count(*), sum(size)::bigint
FROM artifacts WHERE NOT starts_with(key, 'http') GROUP BY 1, 2
UNION ALL
SELECT tenant, 'upload', count(*), sum(size)::bigint FROM uploads WHERE state = 'whole' GROUP BY 1
UNION ALL
SELECT tenant, 'draft', count(*), sum(size)::bigint FROM drafts GROUP BY 1
UNION ALL
SELECT '', 'weights', count(*), sum(size)::bigint FROM weight_files WHERE stored HAVING count(*) > 0
"""
UNWANTED = """
-- name: count_unwanted_files
SELECT count(*), count(*) FILTER (WHERE due_at < now()) FROM jobs WHERE kind = 'file'
"""


class PostgresStoredFiles:
    """``reads``: statements that may take seconds, apart from the queue's."""

    def __init__(self, reads: FairReads, clock: Clock) -> None:
        self._reads = reads
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: StorageUse | None = None
        self._read_at = float("-inf")

    async def use(self) -> StorageUse:
        async with self._lock:
            if self._last is None or self._clock.monotonic() - self._read_at >= FRESH_S:
                self._last = await self._read()
                self._read_at = self._clock.monotonic()
            return self._last

    async def _read(self) -> StorageUse:
        sums = [StoredSum(*row) for row in await self._reads.rows(None, SUMS, {})]
        ((unwanted, overdue),) = await self._reads.rows(None, UNWANTED, {})
        return StorageUse(self._clock.now(), sums, unwanted, overdue)
