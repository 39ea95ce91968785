"""Canaries: pools that try other code beside a pool, and return when they do worse.

A canary leases from the queue of the pool that it is beside. Every process notes how attempts end
in both; one process compares them. A canary that has returned gets nothing more and has no replica,
until it runs something else.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.postgres.database import Database
from serve_app.queue.state.canary_comparison import (
    FAILED,
    INTERRUPTED,
    SUCCEEDED,
    CanaryAttempt,
    compare,
)
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.transactions.end_attempt import EndedAttempt
from serve_app.telemetry.queue_metrics import QueueMeter

log = logging.getLogger(__name__)

COMPARE_EVERY_S = 5.0
MOST_NOTED = 50
"""Attempts of one side that a process notes between two writes. A sample is enough of a pool that
ends hundreds in a second."""
NOTED_ENDS = FAILED | {SUCCEEDED, INTERRUPTED}

# What is no longer configured is forgotten, and so is what ended long ago.
SEEN = """
-- name: see_canaries
INSERT INTO canaries AS c (pool, runs, beside)
SELECT pool, runs, beside FROM json_to_recordset(%(canaries)s::json)
    AS x(pool text, runs text, beside text)
ORDER BY pool, runs
ON CONFLICT (pool, runs) DO UPDATE SET seen_at = now(), beside = excluded.beside
WHERE c.seen_at < now() - interval '1 minute' OR c.beside <> excluded.beside
"""
READ = """
-- name: read_canaries
SELECT pool, runs, comparison, returned_at IS NOT NULL FROM canaries
"""
NOTE = """
-- name: note_canary_attempts
INSERT INTO canary_attempts (pool, runs, tried, replica_id, endpoint, ended, seconds)
SELECT x.pool, x.runs, x.tried, x.replica_id, x.endpoint, x.ended, x.seconds
FROM json_to_recordset(%(attempts)s::json) AS x(
    pool text, runs text, tried boolean, replica_id text, endpoint text, ended text,
    seconds double precision)
JOIN canaries USING (pool, runs)
"""
FORGET = """
-- name: forget_canaries
WITH aged AS (
    DELETE FROM canary_attempts WHERE ended_at < now() - interval '6 hours'
)
DELETE FROM canaries WHERE seen_at < now() - interval '10 minutes'
"""
ATTEMPTS = """
-- name: read_canary_attempts
SELECT c.pool, c.runs, c.beside, a.tried, a.replica_id, a.endpoint, a.ended, a.seconds
FROM canaries c CROSS JOIN (VALUES (true), (false)) AS side(tried)
CROSS JOIN LATERAL (
    SELECT * FROM canary_attempts s
    WHERE s.pool = c.pool AND s.runs = c.runs AND s.tried = side.tried
    ORDER BY s.ended_at DESC LIMIT 1000) a
WHERE c.returned_at IS NULL
"""
WRITE = """
-- name: write_comparison
UPDATE canaries SET comparison = %(summary)s,
    returned_at = CASE WHEN %(worse)s::boolean THEN now() END
WHERE pool = %(pool)s AND runs = %(runs)s AND returned_at IS NULL
RETURNING pool
"""


@dataclass(frozen=True, slots=True)
class Canary:
    """A configured canary, as this process knows it."""

    comparison: str
    returned: bool


class Canaries:
    """Known to all processes within a second."""

    def __init__(self, database: Database, limits: QueueLimits, metrics: QueueMeter) -> None:
        self._database = database
        self._limits = limits
        self._metrics = metrics
        self._known: Mapping[str, Canary] = {}
        self._noted: defaultdict[tuple[str, bool], list[dict[str, Any]]] = defaultdict(list)

    def note(self, attempt: EndedAttempt, ran_in: str) -> None:
        """Note the end of an attempt that ran in the pool ``ran_in``."""
        overflow, how = self._limits.overflow, attempt.how.value
        if not overflow.canaries or how not in NOTED_ENDS:
            return
        timed = how == SUCCEEDED and attempt.work > 0 and not attempt.resumed
        took_s = attempt.run_s or attempt.held_s
        for pool, runs in overflow.canaries.items():
            if ran_in not in (pool, overflow.before[pool]):
                continue
            noted = self._noted[pool, ran_in == pool]
            if len(noted) < MOST_NOTED:
                noted.append(
                    {
                        "pool": pool,
                        "runs": runs,
                        "tried": ran_in == pool,
                        "replica_id": attempt.replica_id or "",
                        "endpoint": attempt.endpoint,
                        "ended": how,
                        "seconds": took_s / attempt.work if timed else None,
                    }
                )

    async def refresh(self) -> None:
        """Write what was noted, and read what is known."""
        overflow = self._limits.overflow
        if not overflow.canaries:
            self._known = {}
            self._noted.clear()
            self._metrics.canaries({})
            return
        configured = [
            {"pool": pool, "runs": runs, "beside": overflow.before[pool]}
            for pool, runs in overflow.canaries.items()
        ]
        await self._database.rows(SEEN, {"canaries": messages.compact(configured)})
        if noted := [attempt for attempts in self._noted.values() for attempt in attempts]:
            self._noted.clear()
            await self._database.rows(NOTE, {"attempts": messages.compact(noted)})
        rows = await self._database.rows(READ)
        self._known = {
            pool: Canary(comparison, returned)
            for pool, runs, comparison, returned in rows
            if overflow.canaries.get(pool) == runs
        }
        self._metrics.canaries({pool: canary.returned for pool, canary in self._known.items()})

    async def judge(self) -> None:
        """Compare each canary with the pool beside it, and let those return that are worse."""
        sides: defaultdict[tuple[str, str, str], list[CanaryAttempt]] = defaultdict(list)
        for pool, runs, beside, *attempt in await self._database.rows(ATTEMPTS):
            sides[pool, runs, beside].append(CanaryAttempt(*attempt))
        for (pool, runs, beside), attempts in sides.items():
            comparison = compare(attempts, beside)
            verdict = (
                f"returned because {comparison.worse}: {comparison.summary}"
                if comparison.worse
                else comparison.summary
            )
            params = {
                "pool": pool,
                "runs": runs,
                "summary": verdict,
                "worse": bool(comparison.worse),
            }
            if await self._database.rows(WRITE, params) and comparison.worse:
                log.warning("The canary %s of the pool %s has %s.", pool, beside, verdict)
        await self._database.rows(FORGET)

    def get(self, pool: str) -> Canary | None:
        """None: it is not a canary, or not yet known."""
        return self._known.get(pool)

    def has_returned(self, pool: str) -> bool:
        """True if the pool is a canary that gets nothing more."""
        known = self._known.get(pool)
        return known is not None and known.returned
