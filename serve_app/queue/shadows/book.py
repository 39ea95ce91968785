"""Requests of which copies go to other endpoints: PostgreSQL behind the port ``ShadowBook``.

The statement that stores a request stores its row in ``shadows``. When the request is deleted, or
its prompt is, a trigger deletes the row and puts the job that deletes the copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from serve_app.domain.executors.fallback import FallbackBudget
from serve_app.domain.executors.shadow import (
    MAX_AGE_S,
    SHADOW_TENANT,
    ShadowCandidate,
    ShadowPair,
    ShadowSide,
    ShadowState,
    ShadowSums,
    UnwantedCopy,
)
from serve_app.domain.request import Request
from serve_app.jobs.postgres import RESTART
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.store import messages
from serve_app.queue.store.config import DAY_S, OWNERS, Retention, ages
from serve_app.queue.store.rows import COLUMNS, SOURCE, known_id, request_from_row

AT_ONCE = 500
KEPT_SKIPPED_S = DAY_S
"""Time from the submit for which it is known that a request got no copy."""
FILE_AGE = "file_retention_days"
"""Setting with the age of a tenant's files."""
BUDGETS = "shadow:"
"""Prefix of the names of budgets, in the table of those of fallbacks. No endpoint has a colon."""
NOT_COVERED = "The budget of copies does not cover it."
TOO_OLD = "There was no room for its copy within an hour."

_OPEN = "s.state IN ('waiting', 'sending')"
# A request's id begins with the time of its submit.
_BEFORE = """(rpad(lpad(to_hex((extract(epoch FROM now() - make_interval(secs => %(age_s)s))
    * 1000)::bigint), 12, '0'), 32, '0'))::uuid"""

# One index step for each target, and the oldest of each, so that a busy one keeps no other waiting.
# What is queued for a paused endpoint does not count as waiting in its pool, so its copies would
# pile up there.
CANDIDATES = f"""
-- name: shadow_candidates
WITH RECURSIVE goal AS (
    (SELECT s.target FROM shadows s WHERE {_OPEN} ORDER BY s.target LIMIT 1)
    UNION ALL
    SELECT (SELECT s.target FROM shadows s WHERE {_OPEN} AND s.target > g.target
            ORDER BY s.target LIMIT 1)
    FROM goal g WHERE g.target IS NOT NULL
)
SELECT s.original::text, s.tenant, s.endpoint, s.target, s.state, r.input,
       extract(epoch FROM now() - r.created_at)::double precision
FROM goal g CROSS JOIN LATERAL (
    SELECT * FROM shadows s WHERE s.target = g.target AND {_OPEN}
    ORDER BY s.original LIMIT %(most)s) s
JOIN requests r ON r.id = s.original
WHERE r.forgetting IS NULL AND NOT EXISTS (SELECT FROM halts h WHERE h.endpoint = g.target)
ORDER BY s.target, s.original
"""
RUNNING = f"""
-- name: running_copies
SELECT r.endpoint, count(*) FROM requests r
WHERE r.tenant = '{SHADOW_TENANT}' AND r.state = 'running' AND r.pool <> 'workflows' GROUP BY 1
"""
TAKE = f"""
-- name: take_shadow
WITH held AS MATERIALIZED (
    SELECT s.original, s.endpoint FROM shadows s
    WHERE s.original = %(id)s::uuid AND s.state = 'waiting' FOR UPDATE
),
judged AS MATERIALIZED (
    SELECT original, spend_on_fallback('{BUDGETS}' || endpoint, %(plan)s::json) AS covered FROM held
)
UPDATE shadows s SET state = CASE WHEN j.covered THEN 'sending' ELSE 'skipped' END,
    reason = CASE WHEN j.covered THEN '' ELSE %(reason)s END
FROM judged j WHERE s.original = j.original
RETURNING s.state
"""
# Where the original was deleted while a worker stood still, its copy is deleted too.
SENT = f"""
-- name: shadow_sent
WITH kept AS (
    UPDATE shadows SET state = 'sent', copy = %(copy)s::uuid, reason = ''
    WHERE original = %(id)s::uuid AND state IN ('sending', 'skipped') RETURNING 1
),
late AS (
    INSERT INTO jobs (kind, key, payload)
    SELECT 'copy', %(id)s::text, jsonb_build_object(
        'target', %(target)s::text, 'copy', %(copy)s::text, 'state', 'sent')
    WHERE NOT EXISTS (SELECT FROM shadows WHERE original = %(id)s::uuid)
    {RESTART}
)
SELECT 1 FROM kept
"""
# A copy may be stored already, by a worker that ended before it could record it.
_SKIP = f"""
UPDATE shadows s SET copy = f.copy, state = CASE WHEN f.copy IS NULL THEN 'skipped' ELSE 'sent' END,
    reason = CASE WHEN f.copy IS NULL THEN %(reason)s ELSE '' END
FROM (
    SELECT o.original, k.request_id AS copy FROM {{named}} o LEFT JOIN idempotency_keys k
        ON k.tenant = '{SHADOW_TENANT}' AND k.endpoint = o.target AND k.key = o.original::text
) f
WHERE s.original = f.original AND {_OPEN}
"""
SKIP = f"""
-- name: skip_shadow
{_SKIP.format(named="(SELECT * FROM shadows WHERE original = %(id)s::uuid)")}
"""
# A copy whose id is not recorded is found by its key: its worker ended before it could record it.
FIND_COPY = f"""
-- name: find_copy
SELECT r.id::text, r.outcome IS NULL FROM requests r
WHERE r.id = coalesce(%(copy)s::uuid, (
    SELECT k.request_id FROM idempotency_keys k
    WHERE k.tenant = '{SHADOW_TENANT}' AND k.endpoint = %(target)s
      AND k.key = %(original)s::text))
"""
_PAGE = """
-- name: page_of_shadows
SELECT s.original::text, s.endpoint, s.target, s.state, s.reason, s.copy::text,
       o.amount, coalesce(o.price ->> 'currency', ''),
       c.amount, coalesce(c.price ->> 'currency', '')
FROM shadows s
LEFT JOIN usage o ON o.request_id = s.original
LEFT JOIN usage c ON c.request_id = s.copy
WHERE {which}
  AND s.original < coalesce(%(before)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY s.original DESC LIMIT %(limit)s
"""
PAGE = _PAGE.format(which="true")
PAGE_OF_ENDPOINT = _PAGE.format(which="s.endpoint = %(endpoint)s")
REQUESTS = f"""
-- name: requests_of_shadows
SELECT {COLUMNS} FROM {SOURCE} WHERE r.id = ANY(%(ids)s::uuid[])
"""
_MEDIAN = "percentile_cont(0.5) WITHIN GROUP (ORDER BY {0}.run_s) FILTER ({1})"
SUMS = f"""
-- name: sums_of_shadows
SELECT s.endpoint, s.target, count(*),
       count(*) FILTER (WHERE o.state <> 'succeeded'),
       count(*) FILTER (WHERE c.state <> 'succeeded'),
       {_MEDIAN.format("o", "WHERE o.state = 'succeeded'")},
       {_MEDIAN.format("c", "WHERE c.state = 'succeeded'")},
       coalesce(sum(o.amount), 0), coalesce(sum(c.amount), 0),
       coalesce(max(o.price ->> 'currency'), ''), coalesce(max(c.price ->> 'currency'), '')
FROM shadows s JOIN usage o ON o.request_id = s.original JOIN usage c ON c.request_id = s.copy
WHERE s.original >= {_BEFORE}
GROUP BY 1, 2 ORDER BY 1, 2
"""
EXPIRE = f"""
-- name: expire_shadows
WITH late AS (
    SELECT s.original, s.target FROM shadows s
    WHERE {_OPEN} AND s.original < {_BEFORE}
    LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
{_SKIP.format(named="late")} RETURNING 1
"""
FORGET_SKIPPED = f"""
-- name: forget_skipped_shadows
DELETE FROM shadows WHERE original = ANY(ARRAY(
    SELECT original FROM shadows WHERE state = 'skipped' AND original < {_BEFORE}
    ORDER BY original LIMIT %(most)s)) AND state = 'skipped' RETURNING 1
"""
AGE_OWNERS = OWNERS.format(table="shadows", where="", also="")
# Files of a copy do not outlive those that its original may have.
AGE = f"""
-- name: age_shadows
SELECT forget_shadows(ARRAY(
    SELECT original FROM shadows WHERE tenant = %(tenant)s AND original < {_BEFORE}
    ORDER BY original LIMIT %(most)s))
"""
ROUNDS = 20


class PostgresShadows:
    """Implements ``ShadowBook``."""

    def __init__(self, database: Database, reads: FairReads, retention: Retention) -> None:
        self._database = database
        self._reads = reads
        self._retention = retention

    async def candidates(self, most: int) -> Sequence[ShadowCandidate]:
        rows = await self._database.rows(CANDIDATES, {"most": most})
        return [
            ShadowCandidate(original, tenant, endpoint, target, ShadowState(state), inputs, age_s)
            for original, tenant, endpoint, target, state, inputs, age_s in rows
        ]

    async def running(self) -> Mapping[str, int]:
        return {str(name): int(count) for name, count in await self._database.rows(RUNNING)}

    async def take(self, original: str, budget: FallbackBudget | None, cost: Decimal) -> bool:
        plan = {"cost": str(cost)} | ({} if budget is None else {"budget": budget.to_json()})
        params = {"id": original, "plan": messages.compact(plan), "reason": NOT_COVERED}
        return await self._database.value(TAKE, params) == ShadowState.SENDING

    async def mark_sent(self, candidate: ShadowCandidate, copy: str) -> bool:
        params = {"id": candidate.original, "target": candidate.target, "copy": copy}
        return bool(await self._database.rows(SENT, params))

    async def skip(self, original: str, reason: str) -> None:
        params = {"id": original, "reason": messages.clean(reason)}
        await self._database.rows(SKIP, params)

    async def find_copy(self, original: str, target: str, copy: str | None) -> UnwantedCopy | None:
        params = {"original": original, "target": target, "copy": copy}
        row = await self._database.row(FIND_COPY, params)
        return UnwantedCopy(*row) if row else None

    async def page(
        self, endpoint: str | None, before: str | None, limit: int
    ) -> Sequence[ShadowPair]:
        last = None if before is None else known_id(before)
        params = {"endpoint": endpoint, "before": last, "limit": limit}
        statement = PAGE if endpoint is None else PAGE_OF_ENDPOINT
        rows = await self._reads.rows(None, statement, params)
        pairs = [(original, copy) for original, _, _, _, _, copy, *_ in rows]
        ids = [id_ for pair in pairs for id_ in pair if id_ is not None]
        request_rows = await self._reads.rows(None, REQUESTS, {"ids": ids}) if ids else []
        requests = {
            request.id: request
            for request in (request_from_row(row).request for row in request_rows)
        }
        return [_pair(row, requests) for row in rows]

    async def sums(self) -> Sequence[ShadowSums]:
        rows = await self._reads.rows(None, SUMS, {"age_s": DAY_S})
        return [
            ShadowSums(endpoint, target, pairs, (a, b), (c, d), (e, f), (g, h))
            for endpoint, target, pairs, a, b, c, d, e, f, g, h in rows
        ]

    async def tidy(self) -> None:
        """Skip what has waited for too long, forget what was skipped, and let copies go that
        are older than their tenant keeps files. Call it periodically."""
        most = {"most": AT_ONCE}
        await self._repeat(EXPIRE, {"age_s": MAX_AGE_S, "reason": TOO_OLD, **most})
        await self._repeat(FORGET_SKIPPED, {"age_s": KEPT_SKIPPED_S, **most})
        own = self._retention.own_days(FILE_AGE)
        usual = self._retention.usual_days(FILE_AGE)
        if usual is None and not own:
            return
        for tenant, age_s in await self._database.rows(AGE_OWNERS, ages(own, usual)):
            if age_s is not None:
                await self._repeat(AGE, {"tenant": tenant, "age_s": age_s, **most})

    async def _repeat(self, statement: str, params: Mapping[str, Any]) -> None:
        for _ in range(ROUNDS):
            if len(await self._database.rows(statement, params)) < AT_ONCE:
                return


def _pair(row: tuple[Any, ...], requests: Mapping[str, Request]) -> ShadowPair:
    original, endpoint, target, state, reason, copy, *bills = row
    sides = [
        None if (request := requests.get(id_ or "")) is None else ShadowSide(request, *bill)
        for id_, bill in ((original, bills[:2]), (copy, bills[2:]))
    ]
    return ShadowPair(original, endpoint, target, ShadowState(state), reason, *sides)
