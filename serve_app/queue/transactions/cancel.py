"""Removal of a request from the queue without a replica: cancelled, not started in time, or failed
by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import State
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.billing import BILL_COLUMNS, bill
from serve_app.queue.store.rows import outcome_to_json

_WRITTEN = f"""
notified AS (
    INSERT INTO events (request_id, sequence, state, message)
    SELECT id, events, CASE WHEN state <> 'running' THEN state END,
           CASE WHEN state = 'running' THEN %(requested)s ELSE %(message)s END
    FROM gone WHERE changed
),
counted AS (
    INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units,
        {BILL_COLUMNS})
    SELECT id, tenant, coalesce(fell_back_to, endpoint), state, attempt, 0, 0, 0,
           {bill()}
    FROM gone WHERE state <> 'running'
),
outbox AS (
    INSERT INTO webhook_deliveries (request_id, tenant, url)
    SELECT id, tenant, webhook_url FROM gone WHERE state <> 'running' AND webhook_url IS NOT NULL
)
SELECT id::text, attempt, lease_nonce, state, pool, tenant, replica_id, events, finished_at,
       changed, endpoint, leads::text, followed
FROM gone
"""
_RETURNING = """
    RETURNING r.id, r.attempt, r.state, r.pool, r.tenant, r.endpoint, r.webhook_url, r.replica_id,
              r.events, r.finished_at, r.leads, r.lease_nonce, r.key_id, r.price, r.reserved,
              r.created_at, r.fell_back_to
"""

# What happens is decided by the row that is written, not by `target`: with a lease at the same
# moment, a request was queued there and running here, and the cancel failed by a CHECK of the table
# (tests/contract/test_fallback_races.py).
CANCEL = f"""
-- name: cancel
WITH target AS (
    SELECT id, cancel_requested, follows IS NOT NULL AS followed
    FROM requests
    WHERE id = %(id)s::uuid AND tenant = %(tenant)s
      AND state IN ('queued', 'following', 'running')
    FOR NO KEY UPDATE
),
gone AS (
    UPDATE requests r SET
        state = CASE r.state WHEN 'running' THEN r.state ELSE 'cancelled' END,
        outcome = CASE WHEN r.state <> 'running' THEN %(outcome)s::json END,
        finished_at = CASE WHEN r.state <> 'running' THEN now() END,
        upload_policy = CASE r.state WHEN 'running' THEN r.upload_policy END,
        cancel_requested = true,
        follows = NULL,
        events = r.events + (NOT t.cancel_requested)::integer
    FROM target t WHERE r.id = t.id AND r.state IN ('queued', 'following', 'running')
    {_RETURNING}, NOT t.cancel_requested AS changed, t.followed
),
noted AS ({insert_audit("id::text", "(SELECT id FROM gone WHERE changed) changed")}),
{_WRITTEN}
"""
_EXPIRE = f"""
-- name: expire
WITH late AS ({{late}}),
gone AS (
    UPDATE requests r SET
        state = 'expired', outcome = %(outcome)s::json, finished_at = now(), follows = NULL,
        upload_policy = NULL,
        events = r.events + 1
    FROM late WHERE r.id = late.id AND r.lease_until IS NULL
    {_RETURNING}, true AS changed, late.followed
),
{_WRITTEN}
"""
_LATE = """
    SELECT id, false AS followed FROM requests WHERE state = 'queued' AND start_by < now()
      AND coalesce(end_by < now(), false) = %(in_all)s::boolean
    ORDER BY start_by LIMIT 200 FOR NO KEY UPDATE SKIP LOCKED
"""
# A request coalesced with a running one counts as started in time.
_LATE_FOLLOWING = """
    SELECT f.id, true AS followed FROM requests f WHERE f.state = 'following' AND f.start_by < now()
      AND coalesce(f.end_by < now(), false) = %(in_all)s::boolean
      AND (%(in_all)s::boolean OR NOT EXISTS (
          SELECT FROM requests l
          WHERE l.leads = f.follows AND l.outcome IS NULL AND l.lease_until IS NOT NULL))
    ORDER BY f.start_by LIMIT 200 FOR NO KEY UPDATE OF f SKIP LOCKED
"""
# What `expire` would look for, in one statement: while nothing is late, that is all.
ANY_LATE = """
-- name: find_late
SELECT EXISTS (SELECT FROM requests WHERE state = 'queued' AND start_by < now())
    OR EXISTS (SELECT FROM requests WHERE state = 'following' AND start_by < now())
"""
EXPIRE = _EXPIRE.format(late=_LATE)
EXPIRE_FOLLOWING = _EXPIRE.format(late=_LATE_FOLLOWING)


FAIL = f"""
-- name: fail
WITH target AS (
    SELECT id, follows IS NOT NULL AS followed FROM requests
    WHERE id = %(id)s::uuid AND state IN ('queued', 'following') FOR NO KEY UPDATE
),
gone AS (
    UPDATE requests r SET
        state = 'failed', outcome = %(outcome)s::json, finished_at = now(), follows = NULL,
        upload_policy = NULL,
        events = r.events + 1
    FROM target t WHERE r.id = t.id
    {_RETURNING}, true AS changed, t.followed
),
noted AS ({insert_audit("id::text", "gone")}),
{_WRITTEN}
"""


@dataclass(frozen=True, slots=True)
class Removed:
    """A request after the act. ``changed``: the act had an effect."""

    lease_key: LeaseKey
    state: State
    pool: str
    tenant: str
    replica_id: str | None
    version: int
    finished_at: datetime | None
    changed: bool
    endpoint: str
    leads: str | None = None  # the coalescing group that it led
    followed: bool = False  # it was coalesced with another request


async def cancel_request(
    database: Database, tenant: str, request_id: str, actor: Actor | None
) -> Removed | None:
    """Cancel a queued request, or request the cancel of a running one. None if there is nothing to
    cancel. With ``actor`` it is written to the audit log.
    """
    params = {
        "id": request_id,
        "tenant": tenant,
        "outcome": messages.compact(outcome_to_json(messages.cancellation())),
        "message": "Cancelled while it was queued.",
        "requested": messages.CANCEL_REQUESTED,
        **audit_params(actor, "request.cancel", tenant=tenant),
    }
    removed = _removals(await database.rows(CANCEL, params))
    return removed[0] if removed else None


async def any_late(database: Database) -> bool:
    """False if no queued request is past a deadline."""
    return bool(await database.value(ANY_LATE))


async def expire_requests(
    database: Database, failure: Outcome, *, in_all: bool
) -> Sequence[Removed]:
    """End, with ``failure``, some of the queued requests that are past a deadline: the overall one
    if ``in_all``, otherwise the start deadline.
    """
    params = {
        "in_all": in_all,
        "outcome": messages.compact(outcome_to_json(failure)),
        "message": failure.failure.message if failure.failure else "",
        "requested": "",
    }
    return [
        *_removals(await database.rows(EXPIRE, params)),
        *_removals(await database.rows(EXPIRE_FOLLOWING, params)),
    ]


async def fail_request(
    database: Database, request_id: str, failure: Outcome, noted: Mapping[str, str | None]
) -> Removed | None:
    """Fail a queued request by hand. None if it is not queued. ``noted``: see ``EndAttempts``."""
    params = {
        "id": request_id,
        "outcome": messages.compact(outcome_to_json(failure)),
        "message": failure.failure.message if failure.failure else "",
        "requested": "",
        **noted,
    }
    removed = _removals(await database.rows(FAIL, params))
    return removed[0] if removed else None


def _removals(rows: Sequence[tuple[Any, ...]]) -> list[Removed]:
    return [
        Removed(LeaseKey(id_, attempt, nonce), State(state), *others)
        for id_, attempt, nonce, state, *others in rows
    ]
