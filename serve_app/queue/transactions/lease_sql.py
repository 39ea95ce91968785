"""The leasing statement, in three forms: with limits on running requests, without requests for some
endpoints or of some tenants, and the shortest form with neither. Each has a second form for while
no request goes before an older one of its lane (``Reordering``), and a third one for
while a snapshot is open for long (``fairness/open_snapshots.py``).

A statement's start-up cost grows with its length and dominates when few slots are leased, so each
form leaves out the clauses that it does not need.
"""

from __future__ import annotations

from typing import NamedTuple

from serve_app.postgres.database import UNAWAITED
from serve_app.queue.fairness.fair_queue import (
    DUE_SOON_S,
    HOST_LEAD_S,
    HOT_LEAD_S,
    LOOK_AHEAD,
    LOOK_NEAR,
    pool_time,
)
from serve_app.queue.fairness.pauses import not_paused
from serve_app.queue.store.rows import COLUMNS, NEW_NONCE, term_has_ended

SUSPECT = "(alone AND failures > 0)"
"""Condition for a suspect: a request that may have ended its replica, alone or in a batch.

A replica runs one suspect at a time. If one request of a batch ended the replica, each of the
others loses one attempt by it and no more. It goes to a node on which no replica died with it, if
the pool has one: then it is known which of the two is to blame.
"""

# Requests of a lane `l` that may be leased, at most `most` from its front. One suspect is enough,
# because a statement leases no more than one.
_NOT_PAUSED = not_paused("(SELECT names FROM paused)")
_OF_LANE = f"r.pool = %(pool)s AND r.tenant = l.tenant AND r.state = 'queued' AND {_NOT_PAUSED}"
_FIELDS = f"r.id, r.place, r.endpoint, r.expected_s, r.ranked_at, r.start_by, {SUSPECT} AS suspect"
_FULL = "(SELECT names FROM full_endpoints)::text[]"
_TRIED = "AND (r.failures = 0 OR NOT %(failed_left_out)s::boolean)"
_FOR_SUSPECTS = "(SELECT replicas FROM for_suspects)"
_ANY = f"""
    (SELECT {_FIELDS} FROM requests r
     WHERE {_OF_LANE} AND NOT {SUSPECT} {{from_front}} {{if_none_full}}
     ORDER BY r.ranked_at, r.place LIMIT {{most}})
    {{if_some_full}}
    UNION ALL
    (SELECT {_FIELDS} FROM requests r
     WHERE {_OF_LANE} AND {SUSPECT} AND {_FOR_SUSPECTS} IS NOT NULL
       AND may_run_suspect(r.id, %(pool)s, {_FOR_SUSPECTS}) {{not_full}}
     ORDER BY r.ranked_at, r.place LIMIT 1)
"""
# If endpoints are at their limit, their requests are not read and skipped but left out: each other
# endpoint is found by one index step, and the results are merged.
_IF_SOME_FULL = f"""
    UNION ALL
    (WITH RECURSIVE each AS (
        (SELECT r.endpoint FROM requests r
         WHERE r.pool = %(pool)s AND r.tenant = l.tenant AND r.state = 'queued'
           AND r.endpoint > '' AND {_FULL} IS NOT NULL {{from_front}}
         ORDER BY r.endpoint LIMIT 1)
        UNION ALL
        SELECT (SELECT r.endpoint FROM requests r
                WHERE r.pool = %(pool)s AND r.tenant = l.tenant AND r.state = 'queued'
                  AND r.endpoint > e.endpoint {{from_front}}
                ORDER BY r.endpoint LIMIT 1)
        FROM each e WHERE e.endpoint IS NOT NULL)
     SELECT q.* FROM each e CROSS JOIN LATERAL (
         SELECT {_FIELDS} FROM requests r
         WHERE {_OF_LANE} AND r.endpoint = e.endpoint AND NOT {SUSPECT} {_TRIED} {{from_front}}
         ORDER BY r.ranked_at, r.place LIMIT {{most}}) q
     WHERE e.endpoint <> ALL({_FULL})
     ORDER BY q.ranked_at, q.place LIMIT {{most}})
"""


# Beside an open snapshot, the scan of a lane starts where its first request was a second ago. That
# is a hint, see open_snapshots.py. Suspects are few and read from the first on.
_FROM_FRONT = """
    AND r.ranked_at >= coalesce(
        to_timestamp((%(fronts)s::jsonb ->> l.tenant)::double precision), '-infinity')"""


def _any(most: int, *, some_full: bool, beside_snapshot: bool) -> str:
    from_front = _FROM_FRONT if beside_snapshot else ""
    return _ANY.format(
        most=most,
        from_front=from_front,
        if_none_full=f"AND {_FULL} IS NULL {_TRIED}" if some_full else "",
        if_some_full=_IF_SOME_FULL.format(most=most, from_front=from_front) if some_full else "",
        not_full=f"AND ({_FULL} IS NULL OR r.endpoint <> ALL({_FULL})) {_TRIED}"
        if some_full
        else "",
    )


# Clauses added by limits on running requests. Lanes and endpoints that the process knows to be at
# their limit are left out. `room_under_limit` counts for the others, and locks each tenant and
# endpoint with a limit: only their requests are leased by one statement at a time. Where it returns
# -1, another statement leases them now. Where it returns 0, the process learns of it.
_LIMITS = """
tenant_limits AS MATERIALIZED (SELECT %(tenants)s::jsonb AS most),
endpoint_limits AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(endpoints)s::json) AS x(endpoint text, most integer)
),
"""
_MOST_OF_TENANT = """CROSS JOIN LATERAL (
        SELECT coalesce(((SELECT most FROM tenant_limits) ->> l.tenant)::integer,
                        %(most_of_tenant)s::integer) AS most OFFSET 0
        ) limits"""
_COUNTED_LANE = """
counted_lane AS MATERIALIZED (
    SELECT tenant, weight, start,
           CASE WHEN most IS NOT NULL
                THEN room_under_limit('tenant', tenant, most, %(count)s + 1) END AS room
    FROM lane
),"""
# Only as many as may be leased by this statement or, if others lease some of them, nearly.
_WITHIN = """
near AS MATERIALIZED (
    SELECT * FROM candidate WHERE coalesce(nth <= room, true)
    ORDER BY start, place LIMIT 4 * %(lanes)s
),
endpoint_room AS MATERIALIZED (
    SELECT endpoint, room_under_limit('endpoint', endpoint, most, %(count)s + 1) AS room
    FROM endpoint_limits
    WHERE endpoint IN (SELECT endpoint FROM near)
),
within AS MATERIALIZED (
    SELECT c.*, e.room AS endpoint_room,
           row_number() OVER (PARTITION BY c.endpoint ORDER BY c.start, c.place) AS nth_of_endpoint
    FROM near c LEFT JOIN endpoint_room e ON e.endpoint = c.endpoint
),"""
# What might be leased, were it not for other statements.
_TAKEABLE = """(SELECT count(*) FROM candidate WHERE room <= 0) + (
           SELECT count(*) FROM within
           WHERE endpoint_room <= 0 OR coalesce(nth_of_endpoint <= endpoint_room, true))"""
_ROOMS = """json_build_object(
           'tenants', (SELECT json_object_agg(tenant, room) FROM counted_lane WHERE room >= 0),
           'endpoints', (
               SELECT json_object_agg(endpoint, room) FROM endpoint_room WHERE room >= 0))"""
# Endpoints and tenants whose requests the waiting replicas do not want, or that are at their limit.
# Tenants may be thousands: the subquery is hashed, and JSON costs psycopg less than an array.
_LEFT_OUT = """
full_endpoints AS MATERIALIZED (SELECT nullif(%(left_out)s::text[], '{}') AS names),
"""
_NOT_LEFT_OUT = """AND l.tenant NOT IN (
        SELECT json_array_elements_text(%(tenants_left_out)s::json))"""
# `outcome IS NULL AND lease_until IS NULL` is the same as `state = 'queued'`, by CHECKs of the
# table; see end_attempt.py. Lanes are locked in order, after the requests, and no holder of a lane
# waits for a queued request, so two leasing statements cannot deadlock.
#
# `vtime`, `woken_at` and `served` change with each leasing and are indexed. Without the indexes a
# leasing reads 34,273 pages instead of 35 with 10,000 lanes awake.
_STATEMENT = """
-- name: lease
WITH slot AS (
    SELECT * FROM json_to_recordset(%(slots)s::json) AS x(n integer, replica text, actor text)
    WHERE NOT {ended_term}
),
charged AS (
    SELECT * FROM json_to_recordset(%(charges)s::json) AS x(tenant text, seconds double precision)
),
suspected AS MATERIALIZED (
    SELECT DISTINCT replica_id FROM requests WHERE state = 'running' AND {suspect}
),
pool_time AS MATERIALIZED (
    SELECT greatest({served} coalesce({pool_time}, 0)) AS v
),
paused AS MATERIALIZED (
    SELECT array_agg(endpoint) AS names FROM halts WHERE kind = 'paused'
),
{limits}{full}for_suspects AS MATERIALIZED (
    SELECT array_agg(s.replica) AS replicas FROM slot s
    WHERE s.replica NOT IN (SELECT replica_id FROM suspected)
),
lane AS MATERIALIZED ({of_all}
    SELECT l.tenant, l.weight, l.vtime, l.woken_at, l.rested, {tenant_limit},
           own_time, greatest(own_time, CASE WHEN {not_behind} THEN v END) AS start
    FROM pool_time CROSS JOIN fair_lanes l CROSS JOIN LATERAL (
        SELECT l.vtime + coalesce(
            (SELECT seconds FROM charged c WHERE c.tenant = l.tenant), 0) / l.weight AS own_time
        OFFSET 0) o {most_of_tenant}
    WHERE l.pool = %(pool)s AND l.active {from_vtime} {not_left_out}
      AND (SELECT true FROM ({any_one}) a LIMIT 1) IS NOT NULL
    ORDER BY l.vtime, l.woken_at
    LIMIT %(lanes)s{next}
),{counted_lane}
candidate AS MATERIALIZED (
    SELECT l.tenant, l.room, q.id, q.place, q.endpoint, q.expected_s, q.suspect,
           row_number() OVER ahead AS nth,
           l.start + coalesce(sum(q.expected_s) OVER (
               ahead ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) / l.weight AS start
    FROM {lanes} l CROSS JOIN LATERAL ({any_ahead}) q
    WHERE q.start_by IS NULL OR q.start_by > now()
    WINDOW ahead AS (
        PARTITION BY l.tenant
        ORDER BY coalesce(q.start_by < now() + interval '{due_soon_s} s', false) DESC,
                 q.ranked_at - CASE WHEN q.endpoint = ANY(%(hot)s::text[])
                               THEN interval '{hot_lead_s} s'
                               WHEN q.endpoint = ANY(%(host)s::text[])
                               THEN interval '{host_lead_s} s' ELSE interval '0 s' END,
                 q.place)
),{within}
-- Sorted before the join, so that the join stops after the last leased request.
chosen AS MATERIALIZED (
    SELECT r.id, a.tenant, a.start, a.place, a.expected_s, a.suspect
    FROM ({allowed}) a JOIN requests r ON r.id = a.id
    WHERE r.outcome IS NULL AND r.lease_until IS NULL
    ORDER BY a.start, a.place
    LIMIT %(count)s
    FOR NO KEY UPDATE OF r SKIP LOCKED
),
numbered AS (
    SELECT id, row_number() OVER (ORDER BY suspect DESC, start, place) AS n FROM chosen
),
-- A suspect takes the first slot, so that slot must be of a replica that runs none, on another node
-- if it can.
seat AS MATERIALIZED (
    SELECT n, replica, actor, row_number() OVER (
        ORDER BY CASE WHEN (SELECT bool_or(suspect) FROM chosen)
                 THEN replica IN (SELECT replica_id FROM suspected) ELSE false END,
                 CASE WHEN (SELECT bool_or(suspect) FROM chosen)
                 THEN NOT may_run_suspect((SELECT id FROM chosen WHERE suspect), %(pool)s,
                                          ARRAY[replica]) ELSE false END, n) AS nth
    FROM slot
),
leased AS (
    UPDATE requests r SET
        state = 'running',
        attempt = r.attempt + 1,
        replica_id = s.replica,
        actor_id = s.actor,
        lease_nonce = {new_nonce},
        confirmed = false,
        lease_until = now() + make_interval(secs => %(first_lease_s)s),
        started_at = {started_at},
        events = r.events + 1,
        start_line = CASE WHEN r.snapshot_step IS NULL THEN r.events + 1 END
    FROM numbered c JOIN seat s ON s.nth = c.n
    WHERE r.id = c.id
    RETURNING r.*, s.n
),
notified AS (
    INSERT INTO events (request_id, sequence, state, message)
    SELECT id, events, 'running',
           'Attempt ' || attempt || ' started on replica ' || replica_id
           || ', from the snapshot at step ' || snapshot_step || '.'
    FROM leased WHERE start_line IS NULL
),
seen AS (
    SELECT tenant, count(*) AS n FROM candidate GROUP BY tenant
),
spent AS MATERIALIZED (
    SELECT x.tenant, sum(x.seconds) AS seconds, sum(x.charge) AS charge, max(x.start) AS start,
           sum(x.n) = (SELECT n FROM seen s WHERE s.tenant = x.tenant)
               AND sum(x.n) < {look_ahead} {never_drained}
               AND (SELECT names FROM paused) IS NULL AND (
                   SELECT 1 FROM requests r
                   WHERE r.pool = %(pool)s AND r.tenant = x.tenant AND r.state = 'queued'
                     AND {suspect} LIMIT 1) IS NULL AS drained
    FROM (
        SELECT tenant, sum(expected_s) AS seconds, 0 AS charge, max(start) AS start, count(*) AS n
        FROM chosen GROUP BY tenant
        UNION ALL
        SELECT tenant, 0, seconds, NULL, 0 FROM charged
    ) x GROUP BY x.tenant
),
{written}locked AS MATERIALIZED (
    SELECT l.tenant, s.seconds, s.charge, s.start, s.drained
    FROM {charges} s JOIN fair_lanes l ON l.pool = %(pool)s AND l.tenant = s.tenant
    ORDER BY l.tenant
    FOR NO KEY UPDATE OF l
),
counted AS (
    UPDATE fair_lanes l SET
        vtime = CASE WHEN k.start IS NULL THEN l.vtime + k.charge / l.weight
                ELSE greatest(
                    l.vtime + k.charge / l.weight,
                    CASE WHEN {not_behind} THEN v END
                    ) + k.seconds / l.weight END,
        rested = CASE WHEN k.start IS NULL THEN l.rested ELSE coalesce(k.drained, false) END,
        served = greatest(l.served, k.start),
        active = l.active AND NOT coalesce(k.drained, false)
    FROM locked k CROSS JOIN pool_time
    WHERE l.pool = %(pool)s AND l.tenant = k.tenant
)
-- One row at least: without a leased request it has the number of candidates only.
SELECT r.n, c.seen, {takeable},
       coalesce((SELECT drained FROM spent s WHERE s.tenant = r.tenant), false),
       CASE WHEN r.shown IS NOT NULL THEN r.input END, {unwritten},
       (SELECT max(start) FROM chosen), {rooms}, {unawaited}, {columns}
FROM (SELECT count(*) AS seen FROM candidate) c LEFT JOIN leased r ON true
LEFT JOIN progress p ON p.request_id = r.id AND p.attempt = r.attempt
ORDER BY r.n
"""

# Beside an open snapshot, a statement writes the lanes that were idle, and the others about once a
# second: each version of a lane that it writes stays, and the next one's unique index reads them
# all. The process keeps what is not written, and adds it to the lanes' times here. So more lanes
# than slots may be next, and only the next ones of them are looked into.
_SERVED = "%(served)s,"
_FROM_VTIME = "AND l.vtime >= %(vtime_from)s"
_OF_ALL = "SELECT * FROM ("
_NEXT = """
    ) l ORDER BY start, vtime, woken_at LIMIT %(next_lanes)s"""
_WRITTEN = """written AS MATERIALIZED (
    SELECT * FROM spent
    WHERE %(writes_lanes)s OR tenant IN (SELECT tenant FROM lane WHERE rested OR start > own_time)
),
"""
_UNWRITTEN = """(
           SELECT json_object_agg(tenant, charge + seconds) FROM spent
           WHERE tenant NOT IN (SELECT tenant FROM written))"""

_ALLOWED = """
        SELECT * FROM {candidates}
        WHERE {below} (NOT suspect OR id = (
            SELECT id FROM {candidates} WHERE suspect ORDER BY start, place LIMIT 1))
        ORDER BY start, place"""


def _statement(
    *,
    limited: bool,
    leaves_out: bool,
    beside_snapshot: bool = False,
    look_ahead: int = LOOK_AHEAD,
) -> str:
    some_full = limited or leaves_out
    clauses = {
        "limits": _LIMITS if limited else "",
        "full": _LEFT_OUT if some_full else "",
        "tenant_limit": "limits.most" if limited else "NULL AS room",
        "most_of_tenant": _MOST_OF_TENANT if limited else "",
        "not_left_out": _NOT_LEFT_OUT if some_full else "",
        "not_behind": "true" if limited else "l.rested",
        "any_one": _any(1, some_full=some_full, beside_snapshot=beside_snapshot),
        "any_ahead": _any(look_ahead, some_full=some_full, beside_snapshot=beside_snapshot),
        "counted_lane": _COUNTED_LANE if limited else "",
        "lanes": "counted_lane" if limited else "lane",
        "within": _WITHIN if limited else "",
        "never_drained": "AND false" if some_full or beside_snapshot else "",
        "allowed": _ALLOWED.format(
            candidates="within" if limited else "candidate",
            below="coalesce(nth_of_endpoint <= endpoint_room, true) AND" if limited else "",
        ),
        "takeable": _TAKEABLE if limited else "c.seen",
        "rooms": _ROOMS if limited else "NULL",
        # After the lock that counts for a limit: see the migration of `room_under_limit`.
        "started_at": "clock_timestamp()" if limited else "now()",
    }
    if beside_snapshot:
        snapshot = (_SERVED, _FROM_VTIME, _OF_ALL, _NEXT, _WRITTEN, "written", _UNWRITTEN)
    else:
        snapshot = ("", "", "", "", "", "spent", "NULL")
    names = ("served", "from_vtime", "of_all", "next", "written", "charges", "unwritten")
    return _STATEMENT.format(
        **clauses,
        **dict(zip(names, snapshot, strict=True)),
        pool_time=pool_time("%(pool)s"),
        suspect=SUSPECT,
        ended_term=term_has_ended("actor"),
        columns=COLUMNS,
        unawaited=UNAWAITED,
        new_nonce=NEW_NONCE,
        look_ahead=look_ahead,
        due_soon_s=DUE_SOON_S,
        hot_lead_s=HOT_LEAD_S,
        host_lead_s=HOST_LEAD_S,
    )


class Forms(NamedTuple):
    """One statement: which reads ``LOOK_AHEAD`` requests of each lane, which reads ``LOOK_NEAR``,
    and the first one beside an open snapshot."""

    far: str
    near: str
    beside_snapshot: str


def _forms(*, limited: bool = False, leaves_out: bool = False) -> Forms:
    return Forms(
        far=_statement(limited=limited, leaves_out=leaves_out),
        near=_statement(limited=limited, leaves_out=leaves_out, look_ahead=LOOK_NEAR),
        beside_snapshot=_statement(limited=limited, leaves_out=leaves_out, beside_snapshot=True),
    )


LEASE = _forms()
LEASE_LEAVING_OUT = _forms(leaves_out=True)
LEASE_LIMITED = _forms(limited=True)
