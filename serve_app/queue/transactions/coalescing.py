"""Requests that wait for the outcome of another that makes the same.

Whoever ends the one that leads looks after those that follow in a statement of its own, after its
commit; so does whoever stores one that follows, whose leader may have ended meanwhile. What a
killed process, or a lost race, has left undone is done by the sweep of any ingress, once a second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.request import Request, State, Waiting, WaitReason
from serve_app.queue import outcomes, wording
from serve_app.queue.database import Database, Lock
from serve_app.queue.deletion import SHARING
from serve_app.queue.lanes import AWAKE
from serve_app.queue.submit import wish_number

log = logging.getLogger(__name__)

AT_ONCE = 500
MOST_GROUPS = 100

# Groups that nobody leads any more, with the outcome to share, if there is one. (Files are not
# counted in the outcome here: see reuse.py.)
DUE = """
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
    SELECT r.id, r.outcome, (SELECT count(*) FROM artifacts a WHERE a.request_id = r.id) AS kept
    FROM requests r WHERE r.leads = w.id AND r.state = 'succeeded' AND r.deleted_at IS NULL
    ORDER BY r.id DESC LIMIT 1
) l ON true
WHERE (SELECT 1 FROM requests r WHERE r.leads = w.id AND r.outcome IS NULL) IS NULL
LIMIT %(most)s
"""
GIVE = """
WITH due AS (
    SELECT id FROM requests
    WHERE state = 'following' AND follows = %(group)s::uuid
      AND (SELECT count(*) FROM artifacts WHERE request_id = %(leader)s::uuid) = %(kept)s
    ORDER BY id LIMIT %(most)s FOR NO KEY UPDATE
),
ended AS (
    UPDATE requests r SET
        state = 'succeeded', outcome = %(outcome)s::text::json, follows = NULL,
        reuses = %(leader)s::uuid, reuse_digest = NULL, started_at = now(), finished_at = now(),
        events = r.events + 1
    FROM due WHERE r.id = due.id
    RETURNING r.id, r.tenant, r.pool, r.endpoint, r.attempt, r.events, r.webhook_url
),
told AS (
    INSERT INTO events (request_id, sequence, level, state, message)
    SELECT id, events, 'INFO', 'succeeded', %(message)s FROM ended
),
counted AS (
    INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units)
    SELECT id, tenant, endpoint, 'succeeded', attempt, 0, 0, 0 FROM ended
),
outbox AS (
    INSERT INTO webhook_deliveries (request_id, tenant, url)
    SELECT id, tenant, webhook_url FROM ended WHERE webhook_url IS NOT NULL
)
SELECT id::text, tenant, pool, endpoint FROM ended
"""
# It has its old place in the queue. One that was let wait past its time to start, because what it
# followed was running, does not expire for that.
PROMOTE = f"""
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
told AS (
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
class Follower:
    """A request that follows no more."""

    id: str
    tenant: str
    pool: str
    endpoint: str
    succeeded: bool  # else it is queued


class Followers:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def settle(self, groups: Iterable[str] | None = None) -> Sequence[Follower]:
        """Of these groups, or of all, that nobody leads any more: everybody has the outcome, or one
        leads again."""
        wanted = None if groups is None else list(groups)
        settled: list[Follower] = []
        while True:
            due = await self._database.rows(DUE, {"groups": wanted, "most": MOST_GROUPS})
            done = [
                each
                for group, tenant, digest, leader, outcome, kept in due
                for each in await self._settle(
                    group, wish_number(tenant, bytes(digest)), leader, outcome, kept
                )
            ]
            settled += done
            if not done or len(due) < MOST_GROUPS:
                return settled

    async def _settle(
        self, group: str, wish: int, leader: str | None, stored: object, kept: int
    ) -> Sequence[Follower]:
        if leader is not None:
            outcome = outcomes.from_json(stored)  # type: ignore[arg-type]
            if kept == len(outcome.artifacts):
                return await self._give(group, leader, replace(outcome, usage=Usage()))
        rows = await self._database.rows(
            PROMOTE, {"group": group, "message": wording.GOES_ON}, lock=Lock((wish,))
        )
        return [Follower(*row, succeeded=False) for row in rows]

    async def _give(self, group: str, leader: str, outcome: Outcome) -> Sequence[Follower]:
        params = {
            "group": group,
            "leader": leader,
            "kept": len(outcome.artifacts),
            "outcome": wording.compact(outcomes.to_json(outcome)),
            "message": wording.reused(leader),
            "most": AT_ONCE,
        }
        given: list[Follower] = []
        while True:
            rows = await self._database.rows(GIVE, params, lock=Lock((SHARING,), shared=True))
            given += [Follower(*row, succeeded=True) for row in rows]
            if len(rows) < AT_ONCE:
                return given


def waiting_for(leader: Request | None, own: Waiting | None, ends_at: datetime | None) -> Waiting:
    """Where a request stands that follows ``leader``, of which ``own`` is told while it is queued,
    and ``ends_at`` while it runs."""
    if leader is None or leader.state.final:
        return Waiting(0, WaitReason.FOLLOWING)
    detail = wording.follows(leader.id)
    if leader.state is State.QUEUED and own is not None:
        return replace(own, reason=WaitReason.FOLLOWING, detail=detail)
    return Waiting(0, WaitReason.FOLLOWING, detail, starts_at=leader.started_at, ends_at=ends_at)
