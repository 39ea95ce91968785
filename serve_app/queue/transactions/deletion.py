"""Deleting ended requests, with all that is kept of them but their usage lines."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.errors import RequestActive, RequestNotFound
from serve_app.domain.outcome import Outcome
from serve_app.queue import outcomes, wording
from serve_app.queue.database import Database, Lock
from serve_app.queue.retention import Retention
from serve_app.queue.rows import known_id

KEY_KEPT_S = 86400.0
"""For so long after its submit an idempotency key counts, also when its request is deleted."""

AT_ONCE = 200

SHARING = 0x73686172
"""Advisory lock: whoever gives an outcome to another request shares it, and whoever deletes has it
alone, so that files are deleted when nobody has them any more, and not before."""

_ONE = """
    SELECT id, snapshot, idempotency_key, created_at, reuses FROM requests
    WHERE id = %(id)s::uuid AND tenant = %(tenant)s AND deleted_at IS NULL
      AND outcome IS NOT NULL
    FOR UPDATE
"""
# Its end is what counts; its id, which begins with the time of the submit, finds it by an index.
# (Of the tenant, which is said as a range for that: see history.py.)
_AGED = """
    SELECT id, snapshot, idempotency_key, created_at, reuses FROM requests
    WHERE tenant >= %(tenant)s AND tenant <= %(tenant)s
      AND deleted_at IS NULL AND outcome IS NOT NULL
      AND id < (rpad(lpad(to_hex((extract(epoch FROM now() - make_interval(secs => %(age_s)s))
                * 1000)::bigint), 12, '0'), 32, '0'))::uuid
      AND finished_at < now() - make_interval(secs => %(age_s)s)
    ORDER BY tenant DESC, id LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
"""
_STATEMENT = """
WITH doomed AS ({doomed}),
judged AS (
    SELECT id, snapshot, idempotency_key IS NOT NULL
        AND created_at > now() - make_interval(secs => %(key_kept_s)s) AS keyed
    FROM doomed
),
emptied AS (
    UPDATE requests r SET deleted_at = now(), input = '{{}}', shown = NULL,
        outcome = %(nothing)s::text::json, snapshot = NULL, snapshot_step = NULL,
        reuse_digest = NULL, forgetting = NULL, webhook_url = NULL, webhook_origin = NULL,
        reuses = NULL
    FROM judged j WHERE r.id = j.id AND j.keyed
),
removed AS (
    DELETE FROM requests r USING judged j WHERE r.id = j.id AND NOT j.keyed
),
untold AS (DELETE FROM events e USING doomed d WHERE e.request_id = d.id),
unattempted AS (DELETE FROM attempts a USING doomed d WHERE a.request_id = d.id),
unannounced AS (DELETE FROM webhook_deliveries w USING doomed d WHERE w.request_id = d.id),
unshown AS (DELETE FROM progress p USING doomed d WHERE p.request_id = d.id),
unlost AS (DELETE FROM undelivered u USING doomed d WHERE u.request_id = d.id),
made AS (
    SELECT d.id, coalesce(d.reuses, d.id) AS maker FROM doomed d
),
-- Files go with the last request that has them.
unused AS (
    SELECT DISTINCT maker FROM made m
    WHERE (SELECT 1 FROM requests o WHERE o.id = m.maker AND o.deleted_at IS NULL
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
noted AS (
    INSERT INTO unwanted (key, due_at) SELECT DISTINCT key, now() FROM objects
    ON CONFLICT (key) DO NOTHING
)
SELECT d.id::text, ARRAY(SELECT o.key FROM objects o WHERE o.request_id = d.id ORDER BY o.key)
FROM doomed d
"""
DELETE_ONE = _STATEMENT.format(doomed=_ONE)
DELETE_AGED = _STATEMENT.format(doomed=_AGED)
STATE = """
SELECT CASE state WHEN 'following' THEN 'queued' ELSE state END FROM requests
WHERE id = %(id)s::uuid AND tenant = %(tenant)s AND deleted_at IS NULL
"""
# One step of an index for each tenant: reading all rows to find them would take seconds.
TENANTS = """
WITH RECURSIVE owner AS (
    (SELECT tenant FROM requests ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT r.tenant FROM requests r WHERE r.tenant > o.tenant ORDER BY r.tenant LIMIT 1)
    FROM owner o WHERE o.tenant IS NOT NULL
)
SELECT tenant FROM owner WHERE tenant IS NOT NULL
"""
FREE_KEYS = """
DELETE FROM requests WHERE deleted_at IS NOT NULL
  AND created_at < now() - make_interval(secs => %(key_kept_s)s)
"""

NOTHING = wording.compact(outcomes.to_json(Outcome()))


class Deletion:
    def __init__(self, database: Database, retention: Retention) -> None:
        self._database = database
        self._retention = retention

    async def delete(self, tenant: str, request_id: str) -> Sequence[str]:
        """Keys of the objects in storage that are unwanted by it. ``RequestNotFound``;
        ``RequestActive`` while it has not ended."""
        id_ = known_id(request_id)
        one = {"tenant": tenant, "id": id_}
        rows = await self._database.rows(
            DELETE_ONE,
            {**one, "key_kept_s": KEY_KEPT_S, "nothing": NOTHING},
            lock=Lock((SHARING,)),
        )
        if rows:
            return list(rows[0][1])
        states = await self._database.rows(STATE, one)
        if not states:
            raise RequestNotFound(f"There is no request {request_id}.")
        raise still_active(states[0][0])

    async def delete_aged(self) -> Sequence[str]:
        """Delete what was kept for as long as its tenant's retention says; returns the ids. In
        small statements: nothing else waits for long."""
        if not self._retention.any:
            return ()
        deleted: list[str] = []
        for (tenant,) in await self._database.rows(TENANTS):
            age_s = self._retention.age_s(tenant)
            while age_s is not None:
                gone = await self._aged(tenant, age_s)
                deleted += gone
                if len(gone) < AT_ONCE:
                    break
        return deleted

    async def free_keys(self) -> None:
        """Drop the rows of deleted requests whose idempotency keys have counted long enough."""
        await self._database.rows(FREE_KEYS, {"key_kept_s": KEY_KEPT_S})

    async def _aged(self, tenant: str, age_s: float) -> Sequence[str]:
        params = {
            "tenant": tenant,
            "age_s": age_s,
            "most": AT_ONCE,
            "key_kept_s": KEY_KEPT_S,
            "nothing": NOTHING,
        }
        rows = await self._database.rows(DELETE_AGED, params, lock=Lock((SHARING,)))
        return [id_ for id_, _ in rows]


def still_active(state: str) -> RequestActive:
    return RequestActive(
        f"The request is {state}: cancel it, wait until it has ended, then delete it."
    )
