"""The table ``jobs``: PostgreSQL behind the port ``Jobs``.

A job is put by an INSERT in the statement that makes it necessary, so none is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, LiteralString

from serve_app.domain.audit.acts import Actor
from serve_app.jobs.jobs import MAX_COUNTED, FailingJob, Job, JobKind
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.telemetry.queue_metrics import JobFigures

RESTART: LiteralString = """
ON CONFLICT (kind, key) DO UPDATE SET due_at = excluded.due_at, tenant = excluded.tenant,
    payload = excluded.payload, attempts = 0, lease = NULL, error = '', given_up_at = NULL,
    created_at = excluded.created_at
"""
"""End of an INSERT that puts a job. One that is there begins again, also while it runs."""


def put_files(rows: LiteralString, due_at: LiteralString = "now()") -> LiteralString:
    """INSERT of the jobs that delete the files whose keys are the column ``key`` of ``rows``. Of a
    file that has one, the job stays."""
    return f"""INSERT INTO jobs (kind, key, due_at) SELECT 'file', key, {due_at} FROM {rows}
    ON CONFLICT (kind, key) DO NOTHING"""


HELD: LiteralString = """
SELECT FROM jobs
WHERE kind = %(job_kind)s AND key = %(job_key)s AND lease = %(job_lease)s::uuid
FOR NO KEY UPDATE
"""
"""Condition of a statement that only the holder of a job may make, after ``EXISTS``."""

DUE: LiteralString = """
-- name: due_jobs
SELECT k.kind FROM unnest(%(kinds)s::text[]) AS k(kind) WHERE EXISTS (
    SELECT FROM jobs j WHERE j.kind = k.kind AND j.given_up_at IS NULL AND j.due_at <= now())
"""
_TAKE: LiteralString = """
-- name: take_{name}
WITH due AS MATERIALIZED (
    SELECT j.kind, j.key FROM jobs j
    WHERE j.kind = %(kind)s AND j.given_up_at IS NULL AND j.due_at <= now()
    {order} LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
UPDATE jobs j SET lease = gen_random_uuid(), attempts = j.attempts + 1,
    due_at = now() + make_interval(secs => %(lease_s)s)
FROM due d WHERE j.kind = d.kind AND j.key = d.key
RETURNING j.kind, j.key, j.lease::text, j.attempts, j.tenant, j.payload,
          extract(epoch FROM now() - j.created_at)::double precision
"""
TAKE: LiteralString = _TAKE.format(name="jobs", order="ORDER BY j.due_at")
TAKE_FAIRLY: LiteralString = _TAKE.format(
    name="jobs_fairly",
    order="""
    AND j.tenant <> ALL (%(except_of)s::text[])
    ORDER BY (
        SELECT count(*) FROM jobs o WHERE o.kind = j.kind AND o.given_up_at IS NULL
            AND o.tenant = j.tenant AND o.lease IS NOT NULL AND o.due_at > now()
    ), j.attempts, j.due_at""",
)
_NAMED: LiteralString = """
unnest(%(kinds)s::text[], %(keys)s::text[], %(leases)s::uuid[]) AS x(kind, key, lease)
WHERE j.kind = x.kind AND j.key = x.key AND j.lease = x.lease
"""
RENEW: LiteralString = f"""
-- name: renew_jobs
UPDATE jobs j SET due_at = now() + make_interval(secs => %(lease_s)s) FROM {_NAMED} RETURNING 1
"""
FINISH: LiteralString = f"""
-- name: finish_jobs
DELETE FROM jobs j USING {_NAMED}
"""
RETRY: LiteralString = f"""
-- name: retry_jobs
UPDATE jobs j SET due_at = now() + make_interval(secs => %(after_s)s), lease = NULL,
    attempts = j.attempts - %(uncounted)s::integer, error = %(error)s
FROM {_NAMED}
"""
GIVE_UP: LiteralString = f"""
-- name: give_up_jobs
UPDATE jobs j SET lease = NULL, error = %(error)s, given_up_at = now() FROM {_NAMED}
"""
BACKLOG: LiteralString = """
-- name: backlog_of_jobs
SELECT k.kind, d.number, coalesce(extract(epoch FROM now() - d.oldest), 0)::double precision,
       (SELECT count(*) FROM (
           SELECT FROM jobs j WHERE j.kind = k.kind AND j.given_up_at IS NOT NULL
           LIMIT %(most)s) x)
FROM unnest(%(kinds)s::text[]) AS k(kind) CROSS JOIN LATERAL (
    SELECT count(*) AS number, min(due_at) AS oldest FROM (
        SELECT j.due_at FROM jobs j
        WHERE j.kind = k.kind AND j.given_up_at IS NULL AND j.due_at <= now()
        ORDER BY j.due_at LIMIT %(most)s) x
) d
"""
_FAILING: LiteralString = """
kind || '/' || key, tenant, attempts, error, created_at,
CASE WHEN given_up_at IS NULL AND lease IS NULL THEN due_at END, given_up_at
"""
FAILING: LiteralString = f"""
-- name: failing_jobs
SELECT {_FAILING}
FROM jobs WHERE error <> '' ORDER BY given_up_at IS NULL, created_at LIMIT %(most)s
"""
RESTART_ONE: LiteralString = f"""
-- name: restart_job
WITH restarted AS (
    UPDATE jobs SET due_at = CASE WHEN lease IS NULL THEN now() ELSE due_at END, attempts = 0,
        given_up_at = NULL
    WHERE kind = %(kind)s AND key = %(key)s AND error <> ''
    RETURNING *
),
recorded AS ({insert_audit("kind || '/' || key", "restarted")})
SELECT {_FAILING} FROM restarted
"""
FORGET: LiteralString = """
-- name: forget_jobs
DELETE FROM jobs WHERE given_up_at < now() - make_interval(secs => %(age_s)s)
"""


def lease_params(job: Job) -> dict[str, str]:
    """Parameters of ``HELD``."""
    return {"job_kind": job.kind, "job_key": job.key, "job_lease": job.lease}


def _job_params(jobs: Sequence[Job]) -> dict[str, Any]:
    return {
        "kinds": [job.kind for job in jobs],
        "keys": [job.key for job in jobs],
        "leases": [job.lease for job in jobs],
    }


class PostgresJobs:
    """Implements ``Jobs``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due_kinds(self, kinds: Collection[str]) -> Collection[str]:
        rows = await self._database.rows(DUE, {"kinds": [*kinds]})
        return [kind for (kind,) in rows]

    async def take(
        self, kind: JobKind, most: int, except_of: Collection[str] = ()
    ) -> Sequence[Job]:
        params: dict[str, Any] = {"kind": kind.name, "most": most, "lease_s": kind.lease_s}
        if kind.fair:
            params["except_of"] = [*except_of]
        rows = await self._database.rows(TAKE_FAIRLY if kind.fair else TAKE, params)
        return [Job(*row) for row in rows]

    async def renew(self, kind: JobKind, jobs: Sequence[Job]) -> int:
        return len(await self._database.rows(RENEW, {**_job_params(jobs), "lease_s": kind.lease_s}))

    async def finish(self, jobs: Sequence[Job]) -> None:
        if jobs:
            await self._database.rows(FINISH, _job_params(jobs))

    async def retry(
        self, jobs: Sequence[Job], after_s: float, error: str = "", *, counts: bool = True
    ) -> None:
        params = {"after_s": after_s, "error": error, "uncounted": 0 if counts else 1}
        await self._database.rows(RETRY, {**_job_params(jobs), **params})

    async def give_up(self, jobs: Sequence[Job], error: str) -> None:
        await self._database.rows(GIVE_UP, {**_job_params(jobs), "error": error})

    async def backlog(self, kinds: Collection[str]) -> Mapping[str, JobFigures]:
        rows = await self._database.rows(BACKLOG, {"kinds": [*kinds], "most": MAX_COUNTED})
        return {kind: JobFigures(*figures) for kind, *figures in rows}

    async def failing(self, most: int) -> Sequence[FailingJob]:
        rows = await self._database.rows(FAILING, {"most": most})
        return [FailingJob(*row) for row in rows]

    async def restart(self, job: str, actor: Actor) -> FailingJob | None:
        kind, _, key = job.partition("/")
        params = {"kind": kind, "key": key, **audit_params(actor, "job.restart")}
        rows = await self._database.rows(RESTART_ONE, params)
        return next((FailingJob(*row) for row in rows), None)

    async def forget(self, age_s: float) -> None:
        await self._database.rows(FORGET, {"age_s": age_s})
