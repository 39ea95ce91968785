"""Deletion by age of what requests leave: prompts, files, the log of webhooks, and usage.

The requests themselves stay, with their states and times. Each call works in small statements, and
deletes a bounded number of rows: the next one goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_app.domain.request import Redacted
from serve_app.jobs.postgres import put_files
from serve_app.postgres.database import Database, Lock
from serve_app.queue.store.config import DAY_S, OWNERS, Retention, ages
from serve_app.queue.transactions.deletion import OUTCOME_LOCK

AT_ONCE = 200
MAX_STATEMENTS = 500  # of one kind, in one call

# An id begins with the time of the submit, so an index finds what may be old enough. The tenant is
# written as a range for the reason given in history.py.
_OF_TENANT = "tenant >= %(tenant)s AND tenant <= %(tenant)s"
_BEFORE = """(rpad(lpad(to_hex((extract(epoch FROM now() - make_interval(secs => %(age_s)s))
    * 1000)::bigint), 12, '0'), 32, '0'))::uuid"""
_WITH_PROMPT = "forgetting IS NULL AND outcome IS NOT NULL"

PROMPT_OWNERS = OWNERS.format(
    table="requests", where=f"WHERE {_WITH_PROMPT}", also=f"AND {_WITH_PROMPT}"
)
# The redaction deletes the input, then the outcome and the log, as with ``X-Fal-Store-IO: 0``. A
# draft needs the input of its request, so it is kept until the draft has expired.
ERASE_PROMPTS = f"""
-- name: erase_prompts
WITH due AS (
    SELECT id, tenant FROM requests
    WHERE {_OF_TENANT} AND {_WITH_PROMPT} AND id < {_BEFORE}
      AND finished_at < now() - make_interval(secs => %(age_s)s)
      AND NOT EXISTS (SELECT FROM drafts d WHERE d.request_id = requests.id)
    ORDER BY tenant, id LIMIT %(most)s FOR UPDATE SKIP LOCKED
),
unsearched AS (
    DELETE FROM request_words w USING due d WHERE w.tenant = d.tenant AND w.request_id = d.id
)
UPDATE requests r SET forgetting = '{Redacted.INPUT}', reuse_digest = NULL
FROM due d WHERE r.id = d.id
RETURNING r.id
"""
FILE_OWNERS = OWNERS.format(table="artifacts", where="", also="")
# Files of a shared outcome age with the last request that has them.
DELETE_FILES = f"""
-- name: delete_aged_files
WITH due AS (
    SELECT key FROM artifacts
    WHERE {_OF_TENANT} AND request_id < {_BEFORE}
      AND created_at < now() - make_interval(secs => %(age_s)s)
      AND (SELECT 1 FROM requests r WHERE r.reuses = artifacts.request_id
           AND r.finished_at >= now() - make_interval(secs => %(age_s)s) LIMIT 1) IS NULL
    ORDER BY tenant, request_id LIMIT %(most)s FOR UPDATE SKIP LOCKED
),
gone AS (DELETE FROM artifacts a USING due d WHERE a.key = d.key RETURNING a.key),
noted AS (
    {put_files("gone")}
)
SELECT key FROM gone
"""
# The URL may have a secret of its receiver, so it goes too.
DELETE_DELIVERIES = """
-- name: delete_aged_deliveries
WITH due AS (
    SELECT id FROM webhook_deliveries WHERE ended_at < now() - make_interval(secs => %(age_s)s)
    ORDER BY ended_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
),
gone AS (
    DELETE FROM webhook_deliveries w USING due d WHERE w.id = d.id RETURNING w.request_id
),
unnamed AS (
    UPDATE requests r SET webhook_url = NULL, call = nullif(r.call - 'origin', '{}')
    FROM gone g WHERE r.id = g.request_id
)
SELECT request_id FROM gone
"""
LINE_OWNERS = OWNERS.format(table="usage", where="", also="")
DELETE_LINES = f"""
-- name: delete_aged_usage
DELETE FROM usage WHERE request_id IN (
    SELECT request_id FROM usage
    WHERE {_OF_TENANT} AND at < date_trunc('day', now() - make_interval(secs => %(age_s)s), 'UTC')
    ORDER BY tenant, at LIMIT %(most)s
) RETURNING request_id
"""
SUM_OWNERS = OWNERS.format(table="usage_days", where="", also="")
DELETE_SUMS = f"""
-- name: delete_aged_sums
DELETE FROM usage_days WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM usage_days
    WHERE {_OF_TENANT}
      AND day < ((now() - make_interval(secs => %(age_s)s)) AT TIME ZONE 'UTC')::date
    ORDER BY tenant, day LIMIT %(most)s FOR UPDATE SKIP LOCKED
)) RETURNING day
"""


class RetentionByKind:
    """Delete what is older than its retention. One process at a time does it."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention

    async def erase_prompts(self) -> int:
        """Leave the prompts of old requests to the redaction, and return how many."""
        return await self._of_tenants("prompt_retention_days", PROMPT_OWNERS, ERASE_PROMPTS)

    async def delete_files(self) -> int:
        """Mark the output files of old requests for deletion, and return how many."""
        lock = Lock((OUTCOME_LOCK,))
        return await self._of_tenants("file_retention_days", FILE_OWNERS, DELETE_FILES, lock)

    async def delete_deliveries(self) -> int:
        """Delete old webhooks that have ended, with the log of their tries. Return how many."""
        days = self._retention.webhook_days
        if days is None:
            return 0
        deleted, _ = await self._until_done(DELETE_DELIVERIES, {"age_s": days * DAY_S})
        return deleted

    async def delete_usage(self) -> int:
        """Delete old lines of usage, and sums by day. Return how many."""
        days = self._retention.usage_days
        if days is None:
            return 0
        none: Mapping[str, float] = {}
        lines = await self._each(LINE_OWNERS, DELETE_LINES, none, days)
        return lines + await self._each(SUM_OWNERS, DELETE_SUMS, none, days)

    async def _of_tenants(
        self, setting: str, owners: str, statement: str, lock: Lock | None = None
    ) -> int:
        own, usual = self._retention.own_days(setting), self._retention.usual_days(setting)
        if usual is None and not own:
            return 0
        return await self._each(owners, statement, own, usual, lock)

    async def _each(
        self,
        owners: str,
        statement: str,
        own: Mapping[str, float],
        usual: float | None,
        lock: Lock | None = None,
    ) -> int:
        """Run ``statement`` for each tenant until nothing is due. ``own``: days of tenants with
        their own; ``usual``: of all others."""
        deleted, left = 0, MAX_STATEMENTS
        for tenant, age_s in await self._database.rows(owners, ages(own, usual)):
            if age_s is None or left <= 0:
                continue
            params = {"tenant": tenant, "age_s": age_s}
            number, used = await self._until_done(statement, params, left, lock)
            deleted, left = deleted + number, left - used
        return deleted

    async def _until_done(
        self,
        statement: str,
        params: Mapping[str, object],
        most: int = MAX_STATEMENTS,
        lock: Lock | None = None,
    ) -> tuple[int, int]:
        """Number of deleted rows, and of statements. At most ``most`` statements."""
        deleted = 0
        for number in range(1, most + 1):
            rows: Sequence[object] = await self._database.rows(
                statement, {**params, "most": AT_ONCE}, lock=lock
            )
            deleted += len(rows)
            if len(rows) < AT_ONCE:
                return deleted, number
        return deleted, most
