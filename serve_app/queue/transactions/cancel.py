"""How a request leaves the queue without a replica: cancelled, or not started in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from serve_app.domain.lease import Held
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import State
from serve_app.queue import outcomes, wording
from serve_app.queue.database import Database

_WRITTEN = """
told AS (
    INSERT INTO events (request_id, sequence, state, message)
    SELECT id, events, CASE WHEN state <> 'running' THEN state END,
           CASE WHEN state = 'running' THEN %(requested)s ELSE %(message)s END
    FROM gone WHERE news
),
counted AS (
    INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units)
    SELECT id, tenant, endpoint, state, attempt, 0, 0, 0 FROM gone WHERE state <> 'running'
),
outbox AS (
    INSERT INTO webhook_deliveries (request_id, tenant, url)
    SELECT id, tenant, webhook_url FROM gone WHERE state <> 'running' AND webhook_url IS NOT NULL
)
SELECT id::text, attempt, state, pool, tenant, replica_id, events, finished_at, news, endpoint,
       leads::text, followed
FROM gone
"""
_RETURNING = """
    RETURNING r.id, r.attempt, r.state, r.pool, r.tenant, r.endpoint, r.webhook_url, r.replica_id,
              r.events, r.finished_at, r.leads
"""

CANCEL = f"""
WITH target AS (
    SELECT id, cancel_requested, state <> 'running' AS waits, follows IS NOT NULL AS followed
    FROM requests
    WHERE id = %(id)s::uuid AND tenant = %(tenant)s
      AND state IN ('queued', 'following', 'running')
    FOR NO KEY UPDATE
),
gone AS (
    UPDATE requests r SET
        state = CASE WHEN t.waits THEN 'cancelled' ELSE r.state END,
        outcome = CASE WHEN t.waits THEN %(outcome)s::json END,
        finished_at = CASE WHEN t.waits THEN now() END,
        cancel_requested = true,
        follows = NULL,
        events = r.events + (NOT t.cancel_requested)::integer
    FROM target t WHERE r.id = t.id
    {_RETURNING}, NOT t.cancel_requested AS news, t.followed
),
{_WRITTEN}
"""
_EXPIRE = f"""
WITH late AS ({{late}}),
gone AS (
    UPDATE requests r SET
        state = 'expired', outcome = %(outcome)s::json, finished_at = now(), follows = NULL,
        events = r.events + 1
    FROM late WHERE r.id = late.id
    {_RETURNING}, true AS news, late.followed
),
{_WRITTEN}
"""
_LATE = """
    SELECT id, false AS followed FROM requests WHERE state = 'queued' AND start_by < now()
      AND coalesce(end_by < now(), false) = %(in_all)s::boolean
    ORDER BY start_by LIMIT 200 FOR NO KEY UPDATE SKIP LOCKED
"""
# What follows one that runs has started in time.
_LATE_FOLLOWING = """
    SELECT f.id, true AS followed FROM requests f WHERE f.state = 'following' AND f.start_by < now()
      AND coalesce(f.end_by < now(), false) = %(in_all)s::boolean
      AND (%(in_all)s::boolean OR NOT EXISTS (
          SELECT FROM requests l
          WHERE l.leads = f.follows AND l.outcome IS NULL AND l.lease_until IS NOT NULL))
    ORDER BY f.start_by LIMIT 200 FOR NO KEY UPDATE OF f SKIP LOCKED
"""
EXPIRE = _EXPIRE.format(late=_LATE)
EXPIRE_FOLLOWING = _EXPIRE.format(late=_LATE_FOLLOWING)


FAIL = f"""
WITH target AS (
    SELECT id, follows IS NOT NULL AS followed FROM requests
    WHERE id = %(id)s::uuid AND state IN ('queued', 'following') FOR NO KEY UPDATE
),
gone AS (
    UPDATE requests r SET
        state = 'failed', outcome = %(outcome)s::json, finished_at = now(), follows = NULL,
        events = r.events + 1
    FROM target t WHERE r.id = t.id
    {_RETURNING}, true AS news, t.followed
),
noted AS (
    INSERT INTO audit (actor, action, subject, detail)
    SELECT %(actor)s, %(action)s, id::text, %(detail)s::json FROM gone
),
{_WRITTEN}
"""


@dataclass(frozen=True, slots=True)
class Left:
    """A request after the act. ``news``: the act changed something."""

    held: Held
    state: State
    pool: str
    tenant: str
    replica_id: str | None
    version: int
    finished_at: datetime | None
    news: bool
    endpoint: str
    leads: str | None = None  # the group for which it was to make the outcome
    followed: bool = False  # it waited for that of another


async def cancel(database: Database, tenant: str, request_id: str) -> Left | None:
    """Cancel what is queued, and ask for it where it runs. None: there is nothing to cancel."""
    params = {
        "id": request_id,
        "tenant": tenant,
        "outcome": wording.compact(outcomes.to_json(wording.cancelled())),
        "message": "Cancelled while it was queued.",
        "requested": wording.CANCEL_REQUESTED,
    }
    left = _left(await database.rows(CANCEL, params))
    return left[0] if left else None


async def expire(database: Database, failure: Outcome, *, in_all: bool) -> Sequence[Left]:
    """End, with ``failure``, some of the queued requests whose time is over: ``in_all``, or that to
    start."""
    params = {
        "in_all": in_all,
        "outcome": wording.compact(outcomes.to_json(failure)),
        "message": failure.failure.message if failure.failure else "",
        "requested": "",
    }
    return [
        *_left(await database.rows(EXPIRE, params)),
        *_left(await database.rows(EXPIRE_FOLLOWING, params)),
    ]


async def fail(
    database: Database, request_id: str, failure: Outcome, noted: Mapping[str, str]
) -> Left | None:
    """End a queued request by hand. None: it is not queued. ``noted``: see ``Endings``."""
    params = {
        "id": request_id,
        "outcome": wording.compact(outcomes.to_json(failure)),
        "message": failure.failure.message if failure.failure else "",
        "requested": "",
        **noted,
    }
    left = _left(await database.rows(FAIL, params))
    return left[0] if left else None


def _left(rows: Sequence[tuple[object, ...]]) -> list[Left]:
    return [
        Left(Held(str(row[0]), row[1]), State(row[2]), *row[3:])  # pyright: ignore
        for row in rows
    ]
