"""Submitting: requests are stored, and leased in the same statement when an ask waits here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serve_app.domain.request import NewRequest, Request, State
from serve_app.queue import wording
from serve_app.queue.database import Database

SUBMIT = """
WITH new AS (
    SELECT * FROM json_to_recordset(%(new)s::json) AS x(
        n integer, id uuid, tenant text, endpoint text, digest text, pool text, priority smallint,
        input text, start_within_s double precision, alone boolean, warnings json, replica text,
        actor text)
),
placed AS MATERIALIZED (
    -- Leased at once only if nothing is queued before it. (Not EXISTS: the planner makes a hash
    -- table of the whole queue for it; measured, 25 ms with 100,000 queued.)
    SELECT n.*, (n.replica IS NOT NULL AND (
        SELECT 1 FROM requests q WHERE q.pool = n.pool AND q.state = 'queued' LIMIT 1
        ) IS NULL)::integer AS here
    FROM new n
),
stored AS (
    INSERT INTO requests (
        id, tenant, endpoint, endpoint_digest, pool, priority, input, start_by, alone, events,
        state, attempt, replica_id, actor_id, lease_until, started_at)
    SELECT id, tenant, endpoint, digest, pool, priority, input::json,
           now() + make_interval(secs => start_within_s), alone,
           1 + json_array_length(warnings) + here,
           CASE here WHEN 1 THEN 'running' ELSE 'queued' END, here,
           CASE here WHEN 1 THEN replica END,
           CASE here WHEN 1 THEN actor END,
           CASE here WHEN 1 THEN now() + make_interval(secs => %(first_lease_s)s) END,
           CASE here WHEN 1 THEN now() END
    FROM placed
    ORDER BY n
    RETURNING id, tenant, pool, priority, state, attempt, replica_id, actor_id, created_at, events
),
leased AS (
    INSERT INTO attempts (request_id, attempt, replica_id, actor_id)
    SELECT id, attempt, replica_id, actor_id FROM stored WHERE state = 'running'
),
told AS (
    INSERT INTO events (request_id, sequence, level, state, message)
    SELECT id, 1, 'INFO', 'queued', %(queued)s FROM stored
    UNION ALL
    SELECT n.id, 1 + w.place, 'WARNING', NULL, w.message
    FROM new n CROSS JOIN LATERAL
        json_array_elements_text(n.warnings) WITH ORDINALITY AS w(message, place)
    UNION ALL
    SELECT id, events, 'INFO', 'running', 'Attempt 1 started on replica ' || replica_id || '.'
    FROM stored WHERE state = 'running'
),
woken AS (
    UPDATE lanes l SET active = true
    FROM (SELECT DISTINCT pool, priority, tenant FROM stored WHERE state = 'queued') s
    WHERE l.pool = s.pool AND l.priority = s.priority AND l.tenant = s.tenant AND NOT l.active
)
SELECT id::text, state, created_at, events FROM stored
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """A replica that waits here and would take a new request at once."""

    replica_id: str
    actor_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored request."""

    request: Request
    version: int
    leased: bool


async def submit(
    database: Database, new: Sequence[tuple[NewRequest, Offer | None]], first_lease_s: float
) -> Sequence[Accepted]:
    """Store all in one transaction, in this order."""
    rows = [_row(n, request, offer) for n, (request, offer) in enumerate(new)]
    answer = await database.rows(
        SUBMIT,
        {"new": wording.compact(rows), "first_lease_s": first_lease_s, "queued": wording.QUEUED},
    )
    stored = {id_: (state, created_at, version) for id_, state, created_at, version in answer}
    return [_accepted(request, offer, *stored[request.id.lower()]) for request, offer in new]


def _row(n: int, new: NewRequest, offer: Offer | None) -> Mapping[str, Any]:
    return {
        "n": n,
        "id": new.id,
        "tenant": new.tenant,
        "endpoint": new.endpoint,
        "digest": new.endpoint_digest,
        "pool": new.pool,
        "priority": int(new.priority),
        # A string within JSON: see endings.py.
        "input": wording.compact(new.input),
        "start_within_s": new.start_within_s,
        "alone": new.alone,
        "warnings": [wording.clean(warning) for warning in new.warnings],
        "replica": offer.replica_id if offer else None,
        "actor": offer.actor_id if offer else None,
    }


def _accepted(
    new: NewRequest, offer: Offer | None, state: str, created_at: datetime, version: int
) -> Accepted:
    leased = state == State.RUNNING
    request = Request(
        id=new.id,
        tenant=new.tenant,
        endpoint=new.endpoint,
        pool=new.pool,
        state=State(state),
        input=new.input,
        priority=new.priority,
        attempt=1 if leased else 0,
        failures=0,
        alone=new.alone,
        created_at=created_at,
        started_at=created_at if leased else None,
        replica_id=offer.replica_id if offer and leased else None,
    )
    return Accepted(request, version, leased)
