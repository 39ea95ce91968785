"""The statement that ends attempts, in forms for each way to name them.

It decides the next state of each request: it ends, is queued again, or is queued for the endpoint
that its fallback names.
"""

from __future__ import annotations

from functools import partial

from serve_app.domain.request import MAX_FAILURES, Cause
from serve_app.jobs.postgres import put_files
from serve_app.postgres.audit import insert_audit
from serve_app.queue.attempts.falling_back import fall_back
from serve_app.queue.fairness.fair_queue import wake_lanes
from serve_app.queue.store.billing import BILL_COLUMNS, PER_ATTEMPT, bill
from serve_app.queue.store.rows import RETRIES_LEFT

# Sources of the attempts to end: three ways to name them.
_NAMED = """
    SELECT * FROM json_to_recordset(%(ends)s::json) AS x(
        id uuid, attempt integer, nonce bigint, how text, message text, cause integer,
        outcome text, artifacts json, drafts json,
        run_s double precision, steps integer, units double precision,
        images integer, megapixels integer, seconds numeric, share numeric)
"""
_NAMELESS = """
    SELECT id, attempt, lease_nonce AS nonce, %(how)s::text AS how,
           %(message)s::text || coalesce(replica_id, '?') AS message,
           %(cause)s::integer AS cause, NULL::text AS outcome, NULL::json AS artifacts,
           NULL::json AS drafts,
           0::double precision AS run_s, 0 AS steps, 0::double precision AS units,
           0 AS images, 0 AS megapixels, 0::numeric AS seconds, 1::numeric AS share
    FROM requests
"""
_EXPIRED = f"""{_NAMELESS}
    WHERE state = 'running' AND lease_until < now()
    ORDER BY lease_until LIMIT 200
"""
_OF_ACTORS = f"""{_NAMELESS}
    WHERE state = 'running' AND actor_id = ANY(%(actors)s::text[])
    LIMIT 1000
"""
_RUNNING = f"{_NAMELESS} WHERE state = 'running' ORDER BY lease_until LIMIT 1000"
_OUT_OF_TIME = """
    SELECT id, attempt, lease_nonce AS nonce, 'out_of_time' AS how,
           'Out of time on replica ' || coalesce(replica_id, '?') AS message,
           %(cause)s::integer AS cause, %(outcome)s::text AS outcome, NULL::json AS artifacts,
           NULL::json AS drafts,
           0::double precision AS run_s, 0 AS steps, 0::double precision AS units,
           0 AS images, 0 AS megapixels, 0::numeric AS seconds, 1::numeric AS share
    FROM requests
    WHERE state = 'running' AND end_by < now() - make_interval(secs => %(overtime_s)s)
    ORDER BY lease_until LIMIT 200
"""
# A lease that was renewed after the snapshot was taken is not lost.
_STILL_EXPIRED = "AND r.lease_until < now()"

# The code of a failure is cut out of the text: what stands beside it may have `\u0000`, and then
# `->>` is an error, whatever it asks for.
#
# `lease_until IS NOT NULL` is the same as `state = 'running'`, by a CHECK of the table. It is used
# where rows are looked up by id: with the state, the planner might read all running requests.
_STATEMENT = """
-- name: end_attempts
WITH ending AS ({source}),
held AS (
    SELECT r.id, e.attempt, e.how, e.message, e.cause, e.outcome AS own, e.artifacts, e.drafts,
           e.run_s, e.steps, e.units, e.images, e.megapixels, e.seconds, e.share,
           r.cancel_requested, r.confirmed,
           -- An interruption is no failure of a request, but one that sets its own retries may not
           -- want to run again after it.
           (e.how IN ('retry', 'died') OR r.confirmed AND (e.how = 'lost'
               OR e.how = 'interrupted' AND r.retries_left IS NOT NULL))::integer AS failed,
           (e.how = 'stopped' OR e.how IN ('lost', 'interrupted') AND NOT r.confirmed)::integer
               AS missed,
           r.failures, r.unconfirmed, r.retries_left, r.pool AS ran_in, r.endpoint, r.replica_id,
           coalesce(r.actor_id, '') AS actor_id, r.start_line,
           r.fallback, r.fell_back_to, r.end_by, r.snapshot AS resume_point,
           r.expected_s AS charged_s,
           CASE WHEN r.retries_left IS NULL THEN r.failures + 1 >= %(max_failures)s
                ELSE r.retries_left[e.cause] < 1 OR r.failures + 1 >= {most_failures}
                END AS spent
    FROM ending e JOIN requests r ON r.id = e.id
    WHERE r.lease_until IS NOT NULL AND r.attempt = e.attempt AND r.lease_nonce = e.nonce {still}
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
),
-- Materialized: otherwise `next` is computed at each of its seven uses, with a subquery each, which
-- was a seventh of the statement's CPU time.
decided AS MATERIALIZED (
    SELECT *, CASE
        WHEN how IN ('succeeded', 'failed', 'cancelled', 'expired') THEN how
        WHEN how = 'by_hand' AND own IS NOT NULL THEN 'failed'
        WHEN cancel_requested THEN 'cancelled'
        WHEN how = 'out_of_time' THEN 'expired'
        WHEN failed = 1 AND spent AND NOT ({elsewhere_first}) THEN 'failed'
        -- One replica that stands still is no reason.
        WHEN missed = 1 AND unconfirmed + 1 >= %(max_unconfirmed)s AND 1 + (
            SELECT count(DISTINCT a.replica_id) FROM attempts a
            WHERE a.request_id = held.id AND a.replica_id <> held.replica_id
            ) >= %(unconfirmed_replicas)s THEN 'failed'
        ELSE 'queued' END AS next
    FROM held
),
judged AS MATERIALIZED (
    SELECT *, CASE
        WHEN next = 'queued' THEN NULL
        WHEN next = 'cancelled' AND how <> 'cancelled' THEN %(cancelled)s::text
        WHEN how = 'lost' AND confirmed AND failures + 1 >= %(max_failures)s
            THEN %(ended_its_replica)s::text
        WHEN how IN ('lost', 'interrupted') AND confirmed THEN %(no_retry_left)s::text
        WHEN how IN ('lost', 'interrupted', 'stopped') THEN %(never_confirmed)s::text
        ELSE own END AS final,
        how IN ('succeeded', 'failed', 'cancelled', 'expired')
            OR how IN ('retry', 'died') AND NOT cancel_requested
            AS says_itself
    FROM decided
),
-- In the order of the endpoints, whose budgets are locked.
fated AS MATERIALIZED (
    SELECT *, CASE WHEN {falls} THEN spend_on_fallback(endpoint, fallback) ELSE false END AS falls
    FROM (SELECT * FROM judged ORDER BY endpoint OFFSET 0) judged
),
ended AS (
    UPDATE requests r SET
        state = CASE WHEN j.falls THEN 'queued' ELSE j.next END,
        outcome = CASE WHEN NOT j.falls THEN j.final::json END,
        failures = CASE WHEN j.falls THEN 0 ELSE r.failures + j.failed END,
        unconfirmed = CASE WHEN j.falls THEN 0 ELSE r.unconfirmed + j.missed END,
        {fall_back},
        snapshot = CASE WHEN NOT j.falls THEN r.snapshot END,
        snapshot_step = CASE WHEN NOT j.falls THEN r.snapshot_step END,
        retries_left = CASE WHEN r.retries_left IS NULL OR j.failed = 0 THEN r.retries_left
            ELSE ARRAY[{less}]::smallint[] END,
        alone = r.alone OR j.how = 'lost' AND j.confirmed OR j.how = 'died',
        confirmed = false,
        lease_until = NULL,
        start_line = CASE j.how WHEN 'succeeded' THEN r.start_line END,
        end_line = CASE j.how WHEN 'succeeded' THEN r.events + 1 END,
        actor_id = NULL,
        -- A report has cleared the start deadline, but not the overall deadline.
        start_by = coalesce(r.start_by, r.end_by),
        replica_id = CASE WHEN j.falls OR j.next = 'queued' THEN NULL ELSE r.replica_id END,
        finished_at = CASE WHEN j.falls OR j.next = 'queued' THEN NULL ELSE now() END,
        upload_policy = CASE WHEN j.falls OR j.next = 'queued' THEN r.upload_policy END,
        events = r.events + 1
    FROM fated j WHERE r.id = j.id
    RETURNING r.id, r.attempt, r.state, r.pool, r.tenant, r.endpoint, r.webhook_url, r.work,
              r.started_at, r.priority, r.failures, r.finished_at, r.events, j.how, j.message,
              j.failed, r.retries_left, j.final, j.says_itself, j.artifacts, j.drafts, j.run_s,
              j.steps, j.units, j.images, j.megapixels, j.seconds, j.share, r.key_id, r.price,
              r.reserved, r.leads, r.created_at, r.lease_nonce, j.ran_in, j.falls, j.resume_point,
              j.charged_s, j.replica_id AS ran_on, j.actor_id AS ran_as, j.fell_back_to AS ran,
              j.start_line AS began_at_line,
              r.fell_back_to, r.fell_back_for, r.fallback,
              coalesce(r.call ->> 'trace', '') AS trace,
              r.attempt > 1 AND r.snapshot IS NOT NULL AS resumed
),
closed AS (
    INSERT INTO attempts AS a (request_id, attempt, nonce, replica_id, actor_id, endpoint, node,
        started_at, ended, message, start_line, run_s, steps, units)
    SELECT id, attempt, lease_nonce, coalesce(ran_on, '?'), ran_as, ran,
           CASE WHEN how IN ('lost', 'interrupted', 'died', 'out_of_time') THEN (
               SELECT nullif(p.node, '') FROM replicas p WHERE p.replica_id = ran_on) END,
           coalesce(started_at, now()),
           CASE WHEN how IN ('out_of_time', 'restored') THEN 'lost' ELSE how END,
           message, began_at_line, run_s, steps, units
    FROM ended WHERE how <> 'succeeded'
    RETURNING a.request_id, a.node
),
notified AS (
    INSERT INTO events (request_id, sequence, level, state, message)
    SELECT id, events, CASE
               WHEN state = 'failed' THEN 'ERROR'
               WHEN falls OR how IN ('lost', 'interrupted', 'stopped', 'retry', 'died')
                   THEN 'WARNING'
               ELSE 'INFO' END,
           state,
           CASE WHEN falls THEN message || ' It falls back to ' || fell_back_to || ' ('
                    || fell_back_for || ').'
                WHEN state = 'queued' THEN rtrim(message, '.') || '; queued again.'
                    || CASE failed WHEN 1 THEN coalesce(' ' || {retries}, '') ELSE '' END
                WHEN how IN ('retry', 'died') AND failed = 1 AND retries_left IS NOT NULL
                    THEN message || ' ' || {retries}
                WHEN says_itself THEN message
                ELSE final::json -> 'failure' ->> 'message' END
    FROM ended WHERE how <> 'succeeded'
),
counted AS (
    INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units, images,
        megapixels, {bill_columns})
    SELECT id, tenant, coalesce(fell_back_to, endpoint), state, attempt, run_s, steps, units,
           images, megapixels, {bill}
    FROM ended WHERE state <> 'queued'
),
kept AS (
    INSERT INTO artifacts
        (key, request_id, attempt, tenant, media_type, size, sha256, width, height, thumbnail_of)
    SELECT a.key, e.id, e.attempt, e.tenant, a.media_type, a.size, a.sha256, a.width, a.height,
           a.thumbnail_of
    FROM ended e CROSS JOIN LATERAL json_to_recordset(e.artifacts) AS a(
        key text, media_type text, size bigint, sha256 text, width integer, height integer,
        thumbnail_of text)
    WHERE e.state = 'succeeded'
    ON CONFLICT (key) DO NOTHING
),
-- Files of executors are marked for deletion from the issue of their tickets on.
wanted AS (
    DELETE FROM jobs j USING (
        SELECT a.key FROM ended e
        CROSS JOIN LATERAL json_to_recordset(e.artifacts) AS a(key text)
        WHERE e.state = 'succeeded') a
    WHERE j.kind = 'file' AND j.key = a.key
),
drafted AS (
    INSERT INTO drafts (id, tenant, request_id, key, size, sha256, facts, expires_at)
    SELECT d.id, e.tenant, e.id, d.key, d.size, d.sha256, d.facts, d.expires_at
    FROM ended e CROSS JOIN LATERAL json_to_recordset(e.drafts) AS d(
        id text, key text, size bigint, sha256 text, facts json, expires_at timestamptz)
    WHERE e.state = 'succeeded'
    ON CONFLICT DO NOTHING
),
dropped AS (
    {drop_files}
),
outbox AS (
    INSERT INTO webhook_deliveries (request_id, tenant, url)
    SELECT id, tenant, webhook_url FROM ended
    WHERE state <> 'queued' AND webhook_url IS NOT NULL
),
{wake_lanes}{noted}
SELECT e.id::text, e.attempt, e.lease_nonce, e.state, e.how, e.ran_in, e.tenant, e.ran_on,
       e.failures, e.events, e.finished_at, e.endpoint, e.run_s, e.work, e.charged_s,
       extract(epoch FROM now() - e.started_at)::double precision, e.leads::text, e.resumed,
       extract(epoch FROM now() - e.created_at)::double precision,
       CASE WHEN e.state IN ('failed', 'expired')
            THEN substring(e.final FROM '"failure":{{"code":"([a-z0-9_]+)"') END,
       e.trace, e.pool, e.falls,
       NOT e.falls AND e.fell_back_to IS NOT NULL AND coalesce(
           (e.fallback ->> 'same_pool')::boolean, false),
       coalesce(CASE WHEN e.how IN ('failed', 'retry') THEN (
           SELECT p.node FROM replicas p WHERE p.replica_id = e.ran_on) ELSE c.node END, '')
FROM ended e LEFT JOIN closed c ON c.request_id = e.id
"""

# While all replicas that died with a request were on one node, and the pool has another one, that
# node may be to blame.
_ELSEWHERE_FIRST = """how IN ('lost', 'died') AND retries_left IS NULL
            AND failures + 1 < 2 * %(max_failures)s
            AND one_node_is_to_blame(id, replica_id, ran_in)"""

# A failure of a listed class, of a request that is not over in any other way. It falls back once.
_FALLS = """next = 'failed' AND fallback IS NOT NULL AND fell_back_to IS NULL
            AND how <> 'by_hand' AND NOT cancel_requested AND coalesce(end_by > now(), true)
            AND (fallback -> 'errors')::jsonb ? {code}"""
_CODE = """substring(final FROM '"failure":{"code":"([a-z0-9_]+)"')"""

_NOTED = f""",
noted AS ({insert_audit("id::text", "ended")})
"""

CAUSE_NUMBERS = {cause: n for n, cause in enumerate(Cause, start=1)}
_statement = partial(
    _STATEMENT.format,
    drop_files=put_files(
        "(SELECT resume_point AS key FROM ended WHERE falls AND resume_point IS NOT NULL) x"
    ),
    most_failures=MAX_FAILURES,
    # Not below 0: a cancelled request is not retried, but its failure is counted.
    less=", ".join(
        f"greatest(0, r.retries_left[{n}] - (j.cause = {n})::integer)"
        for n in CAUSE_NUMBERS.values()
    ),
    elsewhere_first=_ELSEWHERE_FIRST,
    retries=RETRIES_LEFT,
    wake_lanes=wake_lanes("ended"),
    falls=_FALLS.format(code=_CODE),
    fall_back=fall_back("j.falls", _CODE.replace("final", "j.final")),
    bill_columns=BILL_COLUMNS,
    bill=bill("CASE state WHEN 'succeeded' THEN " + PER_ATTEMPT + " ELSE 0 END"),
    still="",
    noted="",
)
END_NAMED = _statement(source=_NAMED)
END_EXPIRED = _statement(source=_EXPIRED, still=_STILL_EXPIRED)
END_OUT_OF_TIME = _statement(source=_OUT_OF_TIME)
END_RUNNING = _statement(source=_RUNNING)
END_OF_ACTORS = _statement(source=_OF_ACTORS)
END_BY_HAND = _statement(source=_NAMED, noted=_NOTED)
