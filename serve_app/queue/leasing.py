"""Leasing what is queued: tenants in turn by what they were given, within a tenant by rank.

Of each of the lanes that were given least, the first requests are looked at; each gets as its start
the virtual time of its lane plus what is expected of those before it, by weight; those with the
least starts are leased. That is what taking one after the other from the lane with the least
virtual time would give, in one statement.

The virtual time of a pool is the greatest start that was leased. No lane that was idle is behind
it, and none at all where limits hold some back, so neither banks credit. A lane that goes on may
be: it was given back what its requests did not take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.queue import wording
from serve_app.queue.database import Database, Lock
from serve_app.queue.halts import NOT_PAUSED, PAUSED
from serve_app.queue.limits import QueueLimits
from serve_app.queue.order import DUE_SOON_S, HOT_LEAD_S, LOOK_AHEAD
from serve_app.queue.rows import COLUMNS, Stored, stored
from serve_app.queue.submit import Offer

SUSPECT = "(alone AND failures > 0)"
"""It may have ended its replica, alone or in company. A replica runs one such at a time: of a batch
that one request ended, each other one loses one attempt by it and no more."""

LIMITED = 0x6C696D74
"""Advisory lock: where limits on running are to hold, one statement at a time leases."""

# Of a lane `l`: what may be leased, no more than so many from its front. Where endpoints are at
# their limit, what is for them is not read past but left out: each other endpoint is found by one
# step of an index, and merged. Of suspects one is enough, because no more is leased in a statement.
_OF_LANE = f"""
    r.pool = %(pool)s AND r.tenant = l.tenant AND r.state = 'queued' AND {NOT_PAUSED}
"""
_FIELDS = f"r.id, r.place, r.endpoint, r.expected_s, r.ranked_at, r.start_by, {SUSPECT} AS suspect"
_FULL = "(SELECT names FROM full_endpoints)::text[]"
_ANY = f"""
    (SELECT {_FIELDS} FROM requests r
     WHERE {_OF_LANE} AND NOT {SUSPECT} AND {_FULL} IS NULL
     ORDER BY r.ranked_at, r.place LIMIT {{most}})
    UNION ALL
    (WITH RECURSIVE each AS (
        (SELECT r.endpoint FROM requests r
         WHERE r.pool = %(pool)s AND r.tenant = l.tenant AND r.state = 'queued'
           AND {_FULL} IS NOT NULL
         ORDER BY r.endpoint LIMIT 1)
        UNION ALL
        SELECT (SELECT r.endpoint FROM requests r
                WHERE r.pool = %(pool)s AND r.tenant = l.tenant AND r.state = 'queued'
                  AND r.endpoint > e.endpoint
                ORDER BY r.endpoint LIMIT 1)
        FROM each e WHERE e.endpoint IS NOT NULL)
     SELECT q.* FROM each e CROSS JOIN LATERAL (
         SELECT {_FIELDS} FROM requests r
         WHERE {_OF_LANE} AND r.endpoint = e.endpoint AND NOT {SUSPECT}
         ORDER BY r.ranked_at, r.place LIMIT {{most}}) q
     WHERE e.endpoint <> ALL({_FULL})
     ORDER BY q.ranked_at, q.place LIMIT {{most}})
    UNION ALL
    (SELECT {_FIELDS} FROM requests r
     WHERE {_OF_LANE} AND {SUSPECT} AND (SELECT yes FROM takes_suspect)
       AND ({_FULL} IS NULL OR r.endpoint <> ALL({_FULL}))
     ORDER BY r.ranked_at, r.place LIMIT 1)
"""

# `outcome IS NULL AND lease_until IS NULL` is the same as `state = 'queued'`, by CHECKs of the
# table; see endings.py. Lanes are locked in order, after the requests, and nobody who holds a lane
# waits for a queued request, so two leasings cannot wait for each other.
LEASE = f"""
WITH slot AS (
    SELECT * FROM json_to_recordset(%(slots)s::json) AS x(n integer, replica text, actor text)
),
charged AS (
    SELECT * FROM json_to_recordset(%(charges)s::json) AS x(tenant text, seconds double precision)
),
suspected AS MATERIALIZED (
    SELECT DISTINCT replica_id FROM requests WHERE state = 'running' AND {SUSPECT}
),
pool_time AS MATERIALIZED (
    SELECT coalesce((
        SELECT served FROM fair_lanes WHERE pool = %(pool)s ORDER BY pool DESC, served DESC LIMIT 1
        ), 0) AS v
),
running AS MATERIALIZED (
    SELECT tenant, endpoint, count(*) AS n FROM requests
    WHERE state = 'running' AND %(limited)s::boolean GROUP BY 1, 2
),
tenant_most AS (
    SELECT * FROM json_to_recordset(%(tenants)s::json) AS x(tenant text, most integer)
),
endpoint_room AS MATERIALIZED (
    SELECT x.endpoint,
           x.most - coalesce(
               (SELECT sum(n) FROM running r WHERE r.endpoint = x.endpoint), 0) AS room
    FROM json_to_recordset(%(endpoints)s::json) AS x(endpoint text, most integer)
),
full_endpoints AS MATERIALIZED (
    SELECT array_agg(endpoint) AS names FROM endpoint_room WHERE room <= 0
),
takes_suspect AS MATERIALIZED (
    SELECT EXISTS (
        SELECT FROM slot s WHERE s.replica NOT IN (SELECT replica_id FROM suspected)) AS yes
),
lane AS MATERIALIZED (
    SELECT l.tenant, l.weight, room.n AS room,
           greatest(
               l.vtime + coalesce(
                   (SELECT seconds FROM charged c WHERE c.tenant = l.tenant), 0) / l.weight,
               CASE WHEN l.rested OR %(limited)s::boolean THEN v END) AS start
    FROM pool_time CROSS JOIN fair_lanes l CROSS JOIN LATERAL (
        SELECT coalesce((SELECT most FROM tenant_most m WHERE m.tenant = l.tenant),
                        %(most_of_tenant)s::integer)
               - coalesce((SELECT sum(n) FROM running r WHERE r.tenant = l.tenant), 0) AS n
        ) room
    WHERE l.pool = %(pool)s AND l.active AND coalesce(room.n, 1) > 0
      AND (SELECT true FROM ({_ANY.format(most=1)}) a LIMIT 1) IS NOT NULL
    ORDER BY l.vtime
    LIMIT %(lanes)s
),
candidate AS MATERIALIZED (
    SELECT l.tenant, l.room, l.start, l.weight, q.id, q.place, q.endpoint, q.expected_s, q.suspect,
           e.room AS endpoint_room,
           row_number() OVER ahead AS nth,
           coalesce(sum(q.expected_s) OVER (
               ahead ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS ahead_s
    FROM lane l CROSS JOIN LATERAL ({_ANY.format(most=LOOK_AHEAD)}
    ) q LEFT JOIN endpoint_room e ON e.endpoint = q.endpoint
    WHERE coalesce(e.room, 1) > 0 AND (q.start_by IS NULL OR q.start_by > now())
    WINDOW ahead AS (
        PARTITION BY l.tenant
        ORDER BY coalesce(q.start_by < now() + interval '{DUE_SOON_S} s', false) DESC,
                 q.ranked_at - CASE WHEN q.endpoint = ANY(%(hot)s::text[])
                               THEN interval '{HOT_LEAD_S} s' ELSE interval '0 s' END,
                 q.place)
),
allowed AS MATERIALIZED (
    SELECT id, place, tenant, expected_s, start + ahead_s / weight AS start, nth, room,
           endpoint_room, suspect,
           row_number() OVER (
               PARTITION BY suspect ORDER BY start + ahead_s / weight, place) AS nth_alike,
           row_number() OVER (
               PARTITION BY endpoint ORDER BY start + ahead_s / weight, place) AS nth_of_endpoint
    FROM candidate
),
chosen AS MATERIALIZED (
    SELECT r.id, a.tenant, a.start, a.place, a.expected_s, a.suspect
    FROM allowed a JOIN requests r ON r.id = a.id
    WHERE r.outcome IS NULL AND r.lease_until IS NULL
      AND coalesce(a.nth <= a.room, true) AND coalesce(a.nth_of_endpoint <= a.endpoint_room, true)
      AND (NOT a.suspect OR a.nth_alike = 1)
    ORDER BY a.start, a.place
    LIMIT %(count)s
    FOR NO KEY UPDATE OF r SKIP LOCKED
),
numbered AS (
    SELECT id, row_number() OVER (ORDER BY suspect DESC, start, place) AS n FROM chosen
),
-- A suspect takes the first slot, so the first is to be of a replica that runs none.
seat AS MATERIALIZED (
    SELECT n, replica, actor, row_number() OVER (
        ORDER BY CASE WHEN (SELECT bool_or(suspect) FROM chosen)
                 THEN replica IN (SELECT replica_id FROM suspected) ELSE false END, n) AS nth
    FROM slot
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
    FROM numbered c JOIN seat s ON s.nth = c.n
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
           'Attempt ' || attempt || ' started on replica ' || replica_id
           || coalesce(', from the snapshot at step ' || snapshot_step, '') || '.'
    FROM leased
),
seen AS (
    SELECT tenant, count(*) AS n FROM candidate GROUP BY tenant
),
spent AS MATERIALIZED (
    SELECT x.tenant, sum(x.seconds) AS seconds, sum(x.charge) AS charge, max(x.start) AS start,
           sum(x.n) = (SELECT n FROM seen s WHERE s.tenant = x.tenant)
               AND sum(x.n) < {LOOK_AHEAD} AND NOT %(limited)s::boolean
               AND {PAUSED} IS NULL AND (
                   SELECT 1 FROM requests r
                   WHERE r.pool = %(pool)s AND r.tenant = x.tenant AND r.state = 'queued'
                     AND {SUSPECT} LIMIT 1) IS NULL AS drained
    FROM (
        SELECT tenant, sum(expected_s) AS seconds, 0 AS charge, max(start) AS start, count(*) AS n
        FROM chosen GROUP BY tenant
        UNION ALL
        SELECT tenant, 0, seconds, NULL, 0 FROM charged
    ) x GROUP BY x.tenant
),
locked AS MATERIALIZED (
    SELECT l.tenant, s.seconds, s.charge, s.start, s.drained
    FROM spent s JOIN fair_lanes l ON l.pool = %(pool)s AND l.tenant = s.tenant
    ORDER BY l.tenant
    FOR NO KEY UPDATE OF l
),
counted AS (
    UPDATE fair_lanes l SET
        vtime = CASE WHEN k.start IS NULL THEN l.vtime + k.charge / l.weight
                ELSE greatest(
                    l.vtime + k.charge / l.weight,
                    CASE WHEN l.rested OR %(limited)s::boolean THEN v END
                    ) + k.seconds / l.weight END,
        rested = CASE WHEN k.start IS NULL THEN l.rested ELSE coalesce(k.drained, false) END,
        served = greatest(l.served, k.start),
        active = l.active AND NOT coalesce(k.drained, false)
    FROM locked k CROSS JOIN pool_time
    WHERE l.pool = %(pool)s AND l.tenant = k.tenant
)
SELECT r.n, (SELECT count(*) FROM allowed),
       coalesce((SELECT drained FROM spent s WHERE s.tenant = r.tenant), false), {COLUMNS}
FROM leased r LEFT JOIN progress p ON p.request_id = r.id AND p.attempt = r.attempt
ORDER BY r.n
"""


@dataclass(frozen=True, slots=True)
class Leased:
    """What a leasing found: which offer got which, in the queue's order.

    ``drained``: tenants whose lanes were put to sleep. ``more``: others may be leased now.
    """

    found: Sequence[tuple[int, Stored]]
    drained: frozenset[str]
    more: bool


async def lease(
    database: Database,
    pool: str,
    offers: Sequence[Offer],
    hot: frozenset[str],
    limits: QueueLimits,
    charges: Mapping[str, float],
) -> Leased:
    """Lease at most one request to each offer. ``hot``: endpoints loaded where the offers are."""
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
            # Charges that are not written yet may move as many lanes back.
            "lanes": len(slots) + len(charges),
            "hot": sorted(hot),
            "charges": wording.compact(
                [{"tenant": tenant, "seconds": seconds} for tenant, seconds in charges.items()]
            ),
            "first_lease_s": limits.first_lease_s,
            **_running(limits),
        },
        lock=Lock((LIMITED,)) if limits.limits_running else None,
    )
    found = [(row[0] - 1, stored(row[3:])) for row in rows]
    seen = rows[0][1] if rows else 0
    drained = frozenset(
        each.request.tenant for row, (_, each) in zip(rows, found, strict=True) if row[2]
    )
    more = bool(found) and (seen > len(found) or len(found) >= min(len(slots), LOOK_AHEAD))
    return Leased(found, drained, more)


def _running(limits: QueueLimits) -> Mapping[str, object]:
    tenants = [
        {"tenant": tenant, "most": each.max_running}
        for tenant, each in limits.tenants.items()
        if each.max_running is not None
    ]
    endpoints = [
        {"endpoint": endpoint, "most": each.max_running}
        for endpoint, each in limits.endpoints.items()
        if each.max_running is not None
    ]
    return {
        "limited": limits.limits_running,
        "most_of_tenant": limits.max_running_per_tenant,
        "tenants": wording.compact(tenants),
        "endpoints": wording.compact(endpoints),
    }
