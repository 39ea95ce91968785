"""Leasing what is queued: by priority, then age."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.queue import wording
from serve_app.queue.database import Database
from serve_app.queue.rows import COLUMNS, Stored, stored
from serve_app.queue.submit import Offer

LEASE = f"""
WITH slot AS (
    SELECT * FROM json_to_recordset(%(slots)s::json) AS x(n integer, replica text, actor text)
),
chosen AS (
    SELECT id, priority, place FROM requests
    WHERE pool = %(pool)s AND state = 'queued' AND (start_by IS NULL OR start_by > now())
    ORDER BY priority DESC, place
    LIMIT %(count)s
    FOR NO KEY UPDATE SKIP LOCKED
),
numbered AS (
    SELECT id, row_number() OVER (ORDER BY priority DESC, place) AS n FROM chosen
),
leased AS (
    UPDATE requests r SET
        state = 'running',
        attempt = r.attempt + 1,
        replica_id = s.replica,
        actor_id = s.actor,
        confirmed = false,
        lease_until = now() + make_interval(secs => %(first_lease_s)s),
        started_at = now(),
        events = r.events + 1
    FROM numbered c JOIN slot s ON s.n = c.n
    WHERE r.id = c.id
    RETURNING r.*, s.n
),
opened AS (
    INSERT INTO attempts (request_id, attempt, replica_id, actor_id)
    SELECT id, attempt, replica_id, actor_id FROM leased
),
told AS (
    INSERT INTO events (request_id, sequence, state, message)
    SELECT id, events, 'running',
           'Attempt ' || attempt || ' started on replica ' || replica_id || '.'
    FROM leased
)
SELECT r.n, {COLUMNS}
FROM leased r LEFT JOIN progress p ON p.request_id = r.id AND p.attempt = r.attempt
ORDER BY r.n
"""


async def lease(
    database: Database, pool: str, offers: Sequence[Offer], first_lease_s: float
) -> Sequence[tuple[int, Stored]]:
    """Lease at most one request to each offer; says which offer got which, in the queue's order."""
    slots = [
        {"n": n, "replica": offer.replica_id, "actor": offer.actor_id}
        for n, offer in enumerate(offers, start=1)
    ]
    rows = await database.rows(
        LEASE,
        {
            "slots": wording.compact(slots),
            "pool": pool,
            "count": len(slots),
            "first_lease_s": first_lease_s,
        },
    )
    return [(row[0] - 1, stored(row[1:])) for row in rows]
