"""Deletion of ended requests, with everything stored about them except their usage lines, and of
the files of requests whose clients limited how long they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import RequestActive, RequestNotFound
from serve_app.jobs.postgres import put_files
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database, Lock
from serve_app.queue.store import messages
from serve_app.queue.store.config import DAY_S, Retention
from serve_app.queue.store.rows import known_id

IDEMPOTENCY_KEY_TTL_S = 86400.0
"""Lifetime of an idempotency key after its submit, also if its request is deleted."""

BATCH_SIZE = 200
IN_THE_FUTURE_S = -3600.0  # as an age: clocks of ingress processes differ
MAX_BATCHES = 500  # by age, in one round

OUTCOME_LOCK = 0x73686172
"""Advisory lock that keeps files as long as a request refers to them.

A statement that gives an outcome to another request takes it shared. A statement that deletes takes
it exclusively.
"""

_ONE = """
    SELECT id, snapshot, reuses FROM requests
    WHERE id = %(id)s::uuid AND tenant = %(tenant)s
      AND outcome IS NOT NULL AND NOT EXISTS (
        SELECT FROM workflow_steps s JOIN requests p ON p.id = s.run_id
        WHERE s.request_id = requests.id AND p.outcome IS NULL)
    FOR UPDATE
"""
# A step of a workflow is kept as long as the request to the workflow, whose outcome has its files.
# The age counts from the end of the request. Its id begins with the time of the submit, so an index
# finds it. The tenant is written as a range for the reason given in history.py.
_AGED_ROWS = """
    requests.tenant >= {tenant} AND requests.tenant <= {tenant}
      AND outcome IS NOT NULL
      AND id < (rpad(lpad(to_hex((extract(epoch FROM now() - make_interval(secs => {age_s}))
                * 1000)::bigint), 12, '0'), 32, '0'))::uuid
      AND finished_at < now() - make_interval(secs => {age_s})
      AND NOT EXISTS (SELECT FROM workflow_steps s WHERE s.request_id = requests.id)
"""
_AGED = f"""
    SELECT id, snapshot, reuses FROM requests
    WHERE {_AGED_ROWS.format(tenant="%(tenant)s", age_s="%(age_s)s")}
    ORDER BY tenant DESC, id LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
"""
_STATEMENT = f"""
-- name: delete
WITH doomed AS ({{doomed}}),
removed AS (DELETE FROM requests r USING doomed d WHERE r.id = d.id),
unkeyed AS (
    DELETE FROM idempotency_keys k USING doomed d
    WHERE k.request_id = d.id AND k.created_at <= now() - make_interval(secs => %(key_kept_s)s)
),
keyed AS (
    UPDATE idempotency_keys k SET expires_at = k.created_at + make_interval(secs => %(key_kept_s)s)
    FROM doomed d
    WHERE k.request_id = d.id AND k.created_at > now() - make_interval(secs => %(key_kept_s)s)
),
untold AS (DELETE FROM events e USING doomed d WHERE e.request_id = d.id),
unattempted AS (DELETE FROM attempts a USING doomed d WHERE a.request_id = d.id),
unannounced AS (DELETE FROM webhook_deliveries w USING doomed d WHERE w.request_id = d.id),
unshown AS (DELETE FROM progress p USING doomed d WHERE p.request_id = d.id),
unyielded AS (DELETE FROM partial_results p USING doomed d WHERE p.request_id = d.id),
unlost AS (DELETE FROM undelivered u USING doomed d WHERE u.request_id = d.id),
-- A run whose steps have not ended stays until these are cancelled, see workflows/runs.py. The lock
-- shows whether it was closed meanwhile.
run AS (
    SELECT w.request_id, w.ended_at FROM workflow_runs w JOIN doomed d ON d.id = w.request_id
    FOR UPDATE OF w
),
unrun AS (
    DELETE FROM workflow_runs w USING run WHERE w.request_id = run.request_id AND (
        run.ended_at IS NOT NULL OR NOT EXISTS (
            SELECT FROM workflow_steps s LEFT JOIN requests c ON c.id = s.request_id
            WHERE s.run_id = run.request_id AND s.state <> 'ended' AND c.outcome IS NULL))
),
made AS (
    SELECT d.id, coalesce(d.reuses, d.id) AS maker FROM doomed d
),
-- Files are deleted with the last request that refers to them.
unused AS (
    SELECT DISTINCT maker FROM made m
    WHERE (SELECT 1 FROM requests o WHERE o.id = m.maker
             AND o.id NOT IN (SELECT id FROM doomed)) IS NULL
      AND (SELECT 1 FROM requests o WHERE o.reuses = m.maker
             AND o.id NOT IN (SELECT id FROM doomed) LIMIT 1) IS NULL
),
unmade AS (
    DELETE FROM artifacts a USING unused u WHERE a.request_id = u.maker
    RETURNING a.request_id, a.key
),
objects AS (
    SELECT m.id AS request_id, u.key FROM unmade u JOIN made m ON m.maker = u.request_id
    UNION
    SELECT id, snapshot FROM doomed WHERE snapshot IS NOT NULL
),
noted AS ({insert_audit("id::text", "doomed")}),
unneeded AS (
    {put_files("(SELECT DISTINCT key FROM objects) distinct_objects")}
)
SELECT d.id::text, ARRAY(SELECT o.key FROM objects o WHERE o.request_id = d.id ORDER BY o.key)
FROM doomed d
"""
DELETE_ONE = _STATEMENT.format(doomed=_ONE)
DELETE_AGED = _STATEMENT.format(doomed=_AGED)
STATE = """
SELECT CASE state WHEN 'following' THEN 'queued' ELSE state END, outcome IS NOT NULL, (
    SELECT s.run_id::text FROM workflow_steps s WHERE s.request_id = requests.id LIMIT 1)
FROM requests
WHERE id = %(id)s::uuid AND tenant = %(tenant)s
"""
# Tenants with requests to delete, and their ages. One index step per tenant: a scan over all rows
# would take seconds. It takes no lock, because most tenants have nothing to delete.
DUE_TENANTS = f"""
WITH RECURSIVE owner AS (
    (SELECT tenant FROM requests ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT r.tenant FROM requests r WHERE r.tenant > o.tenant ORDER BY r.tenant LIMIT 1)
    FROM owner o WHERE o.tenant IS NOT NULL
),
own AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(ages)s::json) AS x(tenant text, age_s double precision)
)
SELECT a.tenant, a.age_s FROM (
    SELECT o.tenant, coalesce(
        (SELECT age_s FROM own WHERE own.tenant = o.tenant), %(age_s)s::double precision) AS age_s
    FROM owner o WHERE o.tenant IS NOT NULL
) a WHERE a.age_s IS NOT NULL AND (
    SELECT 1 FROM requests
    WHERE {_AGED_ROWS.format(tenant="a.tenant", age_s="a.age_s")}
    ORDER BY tenant DESC, id LIMIT 1) IS NOT NULL
"""
FREE_KEYS = """
-- name: free_keys
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_keys WHERE expires_at < now()
    ORDER BY expires_at LIMIT %(most)s FOR UPDATE SKIP LOCKED))
RETURNING 1
"""


class Deletion:
    """Delete requests by id or by age."""

    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention

    async def delete(
        self, tenant: str, request_id: str, actor: Actor | None = None
    ) -> Sequence[str]:
        """Delete an ended request and return the storage keys that are no longer needed.

        Raises ``RequestNotFound``, and ``RequestActive`` while the request has not ended.
        """
        id_ = known_id(request_id)
        params = {"tenant": tenant, "id": id_}
        row = await self._database.row(
            DELETE_ONE,
            {
                **params,
                "key_kept_s": IDEMPOTENCY_KEY_TTL_S,
                **audit_params(actor, "request.delete", tenant=tenant),
            },
            lock=Lock((OUTCOME_LOCK,)),
        )
        if row is not None:
            _, keys = row
            return list(keys)
        row = await self._database.row(STATE, params)
        if row is None:
            raise RequestNotFound(f"There is no request {request_id}.")
        state, ended, workflow = row
        raise step_of_active(workflow) if ended and workflow else still_active(state)

    async def delete_aged(self) -> Sequence[str]:
        """Delete requests whose retention is over and return their ids. Call it periodically: it
        deletes ``MAX_BATCHES`` at most.

        Works in small statements, so that nothing else waits for long.
        """
        if not self._retention.any:
            return ()
        deleted: list[str] = []
        batches = MAX_BATCHES
        for tenant, age_s in await self._database.rows(DUE_TENANTS, self._ages()):
            while batches > 0:
                batches -= 1
                gone = await self._delete_older(tenant, age_s)
                deleted += gone
                if len(gone) < BATCH_SIZE:
                    break
        return deleted

    async def delete_of_tenant(self, tenant: str) -> Sequence[str]:
        """Delete some of the ended requests of a tenant, whatever their age, and return their
        ids."""
        return await self._delete_older(tenant, IN_THE_FUTURE_S)

    async def delete_expired_keys(self) -> None:
        """Delete the idempotency keys of deleted requests that have expired. Call it periodically:
        it works as ``delete_aged`` does.
        """
        params = {"most": BATCH_SIZE}
        for _ in range(MAX_BATCHES):
            if len(await self._database.rows(FREE_KEYS, params)) < BATCH_SIZE:
                return

    def _ages(self) -> dict[str, object]:
        retention = self._retention
        own = [
            {"tenant": tenant, "age_s": retention.age_s(tenant)}
            for tenant, limits in retention.tenants.items()
            if limits.retention_days is not None
        ]
        default_s = None if retention.days is None else retention.days * DAY_S
        return {"ages": messages.compact(own), "age_s": default_s}

    async def _delete_older(self, tenant: str, age_s: float) -> Sequence[str]:
        params = {
            "tenant": tenant,
            "age_s": age_s,
            "most": BATCH_SIZE,
            "key_kept_s": IDEMPOTENCY_KEY_TTL_S,
            **audit_params(None, "request.delete"),
        }
        rows = await self._database.rows(DELETE_AGED, params, lock=Lock((OUTCOME_LOCK,)))
        return [id_ for id_, _ in rows]


def still_active(state: str) -> RequestActive:
    return RequestActive(
        f"The request is {state}: cancel it, wait until it has ended, then delete it."
    )


def step_of_active(workflow: str) -> RequestActive:
    return RequestActive(
        f"The request is a step of the workflow request {workflow}, which needs its outcome: wait "
        "until that one has ended, or cancel it, then delete this one."
    )


# Deletion of the files of ended requests at the time their clients set: PostgreSQL behind the
# port ``Lifecycles``. The requests stay, and answer with the URLs of deleted files.

KEEP = """
INSERT INTO lifecycles (request_id, keep_s) VALUES (%(id)s::uuid, %(keep_s)s::float8)
ON CONFLICT (request_id) DO NOTHING
"""
PAGE_SIZE = 1000
MAX_PAGES = 20  # in one round: requests may wait for long, and there may be many
FIRST_ID = "00000000-0000-0000-0000-000000000000"
SEE_ENDS = """
-- name: find_file_lifetimes
WITH page AS MATERIALIZED (
    SELECT request_id, keep_s FROM lifecycles
    WHERE due_at IS NULL AND request_id > %(after)s::text::uuid
    ORDER BY request_id LIMIT %(most)s
),
ended AS MATERIALIZED (
    SELECT p.request_id, (
        SELECT CASE WHEN s.run_id IS NULL THEN r.finished_at ELSE w.finished_at END
               + make_interval(secs => p.keep_s)
        FROM requests r LEFT JOIN workflow_steps s ON s.request_id = r.id
        LEFT JOIN requests w ON w.id = s.run_id  -- the files of a step are those of the workflow
        WHERE r.id = p.request_id LIMIT 1) AS due_at
    FROM page p
),
seen AS (
    UPDATE lifecycles l SET due_at = e.due_at
    FROM ended e WHERE l.request_id = e.request_id AND e.due_at IS NOT NULL
)
SELECT max(request_id::text), count(*) FROM page
"""
EXPIRE = f"""
-- name: expire_files
WITH due AS (
    SELECT request_id FROM lifecycles WHERE due_at <= now()
    ORDER BY due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
),
unmade AS (
    DELETE FROM artifacts a USING due d WHERE a.request_id = d.request_id RETURNING a.key
),
-- Drafts only expire: one that an unfinished request goes on from stays until that one has ended.
outdated AS (
    UPDATE drafts f SET expires_at = now() FROM due d
    WHERE f.request_id = d.request_id AND f.expires_at > now()
),
noted AS (
    {put_files("unmade")}
)
DELETE FROM lifecycles l USING due d WHERE l.request_id = d.request_id
RETURNING l.request_id::text
"""
# Rows of requests that were never stored, or were deleted since.
FORGET = """
DELETE FROM lifecycles l
WHERE l.due_at IS NULL AND l.created_at < now() - interval '1 day'
  AND NOT EXISTS (SELECT FROM requests r WHERE r.id = l.request_id)
"""


class PostgresLifecycles:
    """Implements ``Lifecycles``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen_to = FIRST_ID

    async def keep(self, request_id: str, keep_s: float) -> None:
        await self._database.rows(KEEP, {"id": request_id, "keep_s": keep_s})

    async def expire(self) -> None:
        """Schedule the deletion of the files whose lifetime is over. Call it periodically: it
        looks at some of the requests that had not ended, and goes on with the others.
        """
        await self._see_ends()
        while len(await self._database.rows(EXPIRE, {"most": BATCH_SIZE})) == BATCH_SIZE:
            pass
        await self._database.rows(FORGET)

    async def _see_ends(self) -> None:
        for _ in range(MAX_PAGES):
            params = {"after": self._seen_to, "most": PAGE_SIZE}
            ((last, seen),) = await self._database.rows(SEE_ENDS, params)
            if seen < PAGE_SIZE:
                self._seen_to = FIRST_ID
                return
            self._seen_to = last
