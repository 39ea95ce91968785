"""Coalesced requests, which wait for the outcome of another request with the same input.

After its commit, the process that ends a group's leader settles the group in a statement of its
own. So does the process that stores a coalesced request, because the leader may have ended in
between. Groups left over by a killed process or a lost race are settled by the sweep of any
ingress, once a second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from serve_app.domain.outcome import Outcome, Usage
from serve_app.postgres.database import Database, Lock
from serve_app.queue.fairness.fair_queue import AWAKE
from serve_app.queue.store import messages
from serve_app.queue.store.billing import BILL_COLUMNS, bill
from serve_app.queue.store.rows import outcome_from_json, outcome_to_json
from serve_app.queue.transactions.deletion import OUTCOME_LOCK
from serve_app.queue.transactions.insert import outcome_lock_number

log = logging.getLogger(__name__)

AT_ONCE = 500
MAX_GROUPS = 100

# Groups without a leader, with the outcome to share if there is one. The artifacts are not counted
# inside the outcome here: see outcome_cache.py.
DUE = """
-- name: find_coalesced
WITH waiting AS (
    SELECT DISTINCT follows AS id FROM requests
    WHERE state = 'following' AND (
        %(groups)s::uuid[] IS NULL OR follows = ANY(%(groups)s::uuid[]))
)
SELECT w.id::text, f.tenant, f.reuse_digest, l.id::text, l.outcome, l.kept
FROM waiting w CROSS JOIN LATERAL (
    SELECT tenant, reuse_digest FROM requests
    WHERE state = 'following' AND follows = w.id LIMIT 1
) f LEFT JOIN LATERAL (
    SELECT r.id, r.outcome, (SELECT count(*) FROM artifacts a
        WHERE a.request_id = r.id AND a.thumbnail_of IS NULL) AS kept
    FROM requests r WHERE r.leads = w.id AND r.state = 'succeeded'
    ORDER BY r.id DESC LIMIT 1
) l ON true
WHERE (SELECT 1 FROM requests r WHERE r.leads = w.id AND r.outcome IS NULL) IS NULL
LIMIT %(most)s
"""
SHARE_OUTCOME = f"""
-- name: share_outcome
WITH due AS (
    SELECT id FROM requests
    WHERE state = 'following' AND follows = %(group)s::uuid
      AND (SELECT count(*) FROM artifacts
           WHERE request_id = %(leader)s::uuid AND thumbnail_of IS NULL) = %(kept)s
    ORDER BY id LIMIT %(most)s FOR NO KEY UPDATE
),
ended AS (
    UPDATE requests r SET
        state = 'succeeded', outcome = %(outcome)s::text::json, follows = NULL,
        reuses = %(leader)s::uuid, reuse_digest = NULL, started_at = now(), finished_at = now(),
        -- The outcome may be that of a fallback, and its clients are told.
        fell_back_to = l.fell_back_to, fell_back_for = l.fell_back_for,
        events = r.events + 1
    FROM due, requests l WHERE r.id = due.id AND l.id = %(leader)s::uuid
    RETURNING r.id, r.tenant, r.pool, r.endpoint, r.attempt, r.events, r.webhook_url, r.key_id,
              r.price, r.reserved, r.created_at
),
notified AS (
    INSERT INTO events (request_id, sequence, level, state, message)
    SELECT id, events, 'INFO', 'succeeded', %(message)s FROM ended
),
counted AS (
    INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units,
        {BILL_COLUMNS})
    SELECT id, tenant, endpoint, 'succeeded', attempt, 0, 0, 0,
           {bill()}
    FROM ended
),
outbox AS (
    INSERT INTO webhook_deliveries (request_id, tenant, url)
    SELECT id, tenant, webhook_url FROM ended WHERE webhook_url IS NOT NULL
)
SELECT id::text, tenant, pool, endpoint FROM ended
"""
# The promoted request keeps its old place in the queue. It does not expire if its start deadline
# passed while the request that it followed was running. It is one request, so one lane is locked.
PROMOTE = f"""
-- name: promote
WITH heir AS (
    SELECT id FROM requests
    WHERE state = 'following' AND follows = %(group)s::uuid
      AND (SELECT 1 FROM requests r WHERE r.leads = %(group)s::uuid AND r.outcome IS NULL) IS NULL
    ORDER BY ranked_at, place LIMIT 1 FOR NO KEY UPDATE
),
freed AS (
    UPDATE requests r SET
        state = 'queued', leads = %(group)s::uuid, follows = NULL, events = r.events + 1,
        start_by = CASE WHEN r.start_by < now() THEN r.end_by ELSE r.start_by END
    FROM heir WHERE r.id = heir.id
    RETURNING r.id, r.tenant, r.pool, r.endpoint, r.events
),
notified AS (
    INSERT INTO events (request_id, sequence, message)
    SELECT id, events, %(message)s FROM freed
),
woken AS (
    UPDATE fair_lanes l SET {AWAKE} FROM freed f
    WHERE l.pool = f.pool AND l.tenant = f.tenant AND NOT l.active
)
SELECT id::text, tenant, pool, endpoint FROM freed
"""


@dataclass(frozen=True, slots=True)
class CoalescedRequest:
    """A request that was settled: it no longer waits for another's outcome."""

    id: str
    tenant: str
    pool: str
    endpoint: str
    succeeded: bool  # otherwise it is queued


class CoalescedRequests:
    """Settle groups of coalesced requests that have lost their leader."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def settle(self, groups: Iterable[str] | None = None) -> Sequence[CoalescedRequest]:
        """Settle these groups, or all, where they have no leader: all members get the outcome, or
        one of them becomes the leader.
        """
        group_ids = None if groups is None else list(groups)
        settled: list[CoalescedRequest] = []
        while True:
            due = await self._database.rows(DUE, {"groups": group_ids, "most": MAX_GROUPS})
            done = [
                request
                for group, tenant, digest, leader, outcome, kept in due
                for request in await self._settle(
                    group, outcome_lock_number(tenant, bytes(digest)), leader, outcome, kept
                )
            ]
            settled += done
            if not done or len(due) < MAX_GROUPS:
                return settled

    async def _settle(
        self, group: str, lock_number: int, leader: str | None, stored: object, kept: int
    ) -> Sequence[CoalescedRequest]:
        if leader is not None:
            outcome = outcome_from_json(stored)  # type: ignore[arg-type]
            if kept == len(outcome.artifacts):
                return await self._share_outcome(group, leader, replace(outcome, usage=Usage()))
        rows = await self._database.rows(
            PROMOTE, {"group": group, "message": messages.GOES_ON}, lock=Lock((lock_number,))
        )
        return [CoalescedRequest(*row, succeeded=False) for row in rows]

    async def _share_outcome(
        self, group: str, leader: str, outcome: Outcome
    ) -> Sequence[CoalescedRequest]:
        params = {
            "group": group,
            "leader": leader,
            "kept": len(outcome.artifacts),
            "outcome": messages.compact(outcome_to_json(outcome)),
            "message": messages.reuse(leader),
            "most": AT_ONCE,
        }
        requests: list[CoalescedRequest] = []
        while True:
            rows = await self._database.rows(
                SHARE_OUTCOME, params, lock=Lock((OUTCOME_LOCK,), shared=True)
            )
            requests += [CoalescedRequest(*row, succeeded=True) for row in rows]
            if len(rows) < AT_ONCE:
                return requests
