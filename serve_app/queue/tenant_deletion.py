"""The handler of jobs that delete a tenant: everything that is stored about it, except the audit
log and, if the operator keeps them, sums of its usage.

Each step takes what it finds and leaves nothing half done, so there is no state to resume: any
process goes on, after any crash, with what is left. The last step deletes the tenant itself once
nothing of it is left. Until then its name is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import AlreadyFinal, RequestActive, RequestNotFound
from serve_app.jobs.jobs import Job, JobHandler, JobKind, Retry
from serve_app.jobs.postgres import put_files
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.billing.rollup import DAY, SUM_BY_DAY
from serve_app.queue.operations import PostgresOperations
from serve_app.queue.removal import Removal
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.deletion import Deletion
from serve_app.queue.transactions.garbage import GarbageFiles
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES

log = logging.getLogger(__name__)

GO_ON_S = 2.0
BATCH = 500
MAX_BATCHES = 20  # of a step, in one round
REASON = "The tenant is being deleted"

FIND = """
SELECT actor, kept_as FROM tenant_deletions WHERE tenant = %(tenant)s AND ended_at IS NULL
"""
ACTIVE = """
-- name: active_of_tenant
SELECT id::text, state FROM requests
WHERE tenant = %(tenant)s AND state IN ('queued', 'following', 'running') LIMIT %(most)s
"""
_ANY = "ANY(ARRAY(SELECT {key} FROM {table} WHERE {where} LIMIT %(most)s))"
FILE_LIFETIMES = """
DELETE FROM lifecycles WHERE request_id = ANY(ARRAY(
    SELECT l.request_id FROM lifecycles l JOIN requests r ON r.id = l.request_id
    WHERE r.tenant = %(tenant)s LIMIT %(most)s))
RETURNING 1
"""
# Their files are deleted by every process, as jobs.
DELETE_ROWS_WITH_FILES = f"""
WITH gone AS (
    DELETE FROM {{table}} WHERE key = {
        _ANY.format(key="key", table="{table}", where="tenant = %(tenant)s")} RETURNING key
),
noted AS (
    {put_files("gone")}
)
SELECT 1 FROM gone
"""  # fmt: skip
# The collector of files deletes the rows, after the files.
UPLOADS = f"""
UPDATE uploads SET state = 'unwanted', due_at = now() WHERE key = {
    _ANY.format(key="key", table="uploads",
                where="tenant = %(tenant)s AND state <> 'unwanted'")}
RETURNING 1
"""  # fmt: skip
ROWS = (
    "webhook_deliveries", "request_words", "favourites", "budget_warnings", "tenant_quotas",
    "fair_lanes", "batches", "batch_files", "file_url_revocations", "file_access", "hosted_calls",
    "comfyui_files", "idempotency_keys",
)  # fmt: skip
"""Tables of what is no declared resource: rows with the tenant are deleted, and with them those
that refer to them."""
DELETE_ROWS = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE {column} = %(tenant)s LIMIT %(most)s))
RETURNING 1
"""
NOTICES = (
    "DELETE FROM jobs WHERE tenant = %(tenant)s AND tenant <> '' AND kind = 'notice' RETURNING 1"
)
COUNTS = "DELETE FROM running_counts WHERE kind = 'tenant' AND name = %(tenant)s RETURNING 1"
TOTAL = """
DELETE FROM upload_totals t WHERE t.tenant = %(tenant)s
  AND NOT EXISTS (SELECT FROM uploads u WHERE u.tenant = t.tenant)
RETURNING 1
"""
_SUMMED = {
    "tenant": "%(kept_as)s::text",
    "key_id": "CASE WHEN %(anonymous)s::boolean THEN NULL ELSE key_id END",
    "where": "%(kept_as)s::text IS NOT NULL",
}
USAGE = f"""
-- name: sum_usage_of_tenant
WITH gone AS (
    DELETE FROM usage WHERE request_id = {
        _ANY.format(key="request_id", table="usage", where="tenant = %(tenant)s")} RETURNING *
),
summed AS ({SUM_BY_DAY.format(day=DAY, requests="count(*)", **_SUMMED)})
SELECT 1 FROM gone
"""  # fmt: skip
USAGE_DAYS = f"""
-- name: rename_usage_of_tenant
WITH gone AS (
    DELETE FROM usage_days WHERE ctid = {
        _ANY.format(key="ctid", table="usage_days", where="tenant = %(tenant)s")} RETURNING *
),
summed AS ({SUM_BY_DAY.format(day="day", requests="sum(requests)", **_SUMMED)})
SELECT 1 FROM gone
"""  # fmt: skip
# Copies of its requests have its prompts: jobs delete them before this one ends.
WAITED_FOR = ("requests", "uploads", "shadows", "usage", "usage_days")
# A pseudonym is forgotten here: nothing else says whose sums they are.
END = """
WITH gone AS (DELETE FROM tenants WHERE id = %(tenant)s RETURNING id)
UPDATE tenant_deletions d SET ended_at = now(),
    kept_as = CASE WHEN %(anonymous)s::boolean THEN NULL ELSE d.kept_as END
WHERE d.tenant = %(tenant)s AND d.ended_at IS NULL
"""
KEPT = frozenset({"audit", "tenant_deletions"})
"""Tables in which the name of a deleted tenant stays."""


@dataclass(frozen=True, slots=True)
class _Deletion:
    tenant: str
    actor: Actor
    kept_as: str | None

    @property
    def anonymous(self) -> bool:
        return self.kept_as is not None and self.kept_as.count(":") == 1


class TenantDeletionJob(JobHandler):
    """Deletes tenants step by step. Several processes may do it at once."""

    kind = JobKind("tenant", first_wait_s=2.0, max_wait_s=60.0)

    def __init__(
        self,
        database: Database,
        removal: Removal,
        operations: PostgresOperations,
        garbage: GarbageFiles,
        after: AfterCommit,
        resources: Sequence[Resource[Any]] = RESOURCES,
    ) -> None:
        self._database = database
        self._removal = removal
        self._operations = operations
        self._garbage = garbage
        self._after = after
        self._deletion = Deletion(database, Retention())
        rows: dict[str, str] = dict.fromkeys(ROWS, "tenant")
        with_files = ["artifacts"]
        for resource in resources:
            rows.update(resource.tables)
            with_files += resource.tables_with_files
        self._delete_rows = [
            *(DELETE_ROWS_WITH_FILES.format(table=t) for t in with_files),
            UPLOADS,
            *(DELETE_ROWS.format(table=t, column=c) for t, c in rows.items()),
        ]
        places = dict.fromkeys([*WAITED_FOR, *with_files], "tenant") | rows
        self._left = "SELECT " + " OR ".join(
            f"EXISTS (SELECT FROM {table} x WHERE x.{column} = %(tenant)s)"
            for table, column in places.items()
        )
        # Jobs of no tenant are many, and in no index of tenants.
        self._left += " OR EXISTS (SELECT FROM jobs x WHERE x.tenant = %(tenant)s AND tenant <> '')"

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        """Go on with the deletion of a tenant, a bounded number of rows."""
        (job,) = jobs
        for actor, kept_as in await self._database.rows(FIND, {"tenant": job.key}):
            if not await self._advance(_Deletion(job.key, Actor(actor), kept_as)):
                return [Retry(jobs, GO_ON_S, counts=False)]
            log.warning("The tenant %s is deleted.", job.key)
        return ()

    async def _advance(self, deletion: _Deletion) -> bool:
        """Return True if the tenant is deleted now."""
        if await self._end_requests(deletion) or await self._delete_requests(deletion):
            return False
        for statement in [*self._delete_rows, NOTICES, COUNTS, TOTAL, USAGE, USAGE_DAYS]:
            await self._all(statement, deletion)
        left = await self._database.value(self._left, {"tenant": deletion.tenant})
        if left:
            return False
        await self._database.rows(END, {"tenant": deletion.tenant, "anonymous": deletion.anonymous})
        return True

    async def _end_requests(self, deletion: _Deletion) -> bool:
        """Cancel what waits and stop what runs. Returns True if some may be left."""
        for _ in range(MAX_BATCHES):
            rows = await self._database.rows(ACTIVE, {"tenant": deletion.tenant, "most": BATCH})
            if not rows:
                return False
            for request_id, state in rows:
                try:
                    if state == "running":
                        await self._operations.fail(request_id, deletion.actor, REASON)
                    else:
                        await self._removal.cancel(deletion.tenant, request_id)
                except (AlreadyFinal, RequestActive, RequestNotFound):
                    continue  # it has ended meanwhile
        return True

    async def _delete_requests(self, deletion: _Deletion) -> bool:
        """Delete the requests, with their files. Returns True if some may be left."""
        # The attempts tell which files they left, so collect these first.
        await self._garbage.collect()
        if await self._all(FILE_LIFETIMES, deletion):
            return True
        for _ in range(MAX_BATCHES):
            deleted = await self._deletion.delete_of_tenant(deletion.tenant)
            self._after.publish_deletion(deleted)
            if not deleted:
                return False
        return True

    async def _all(self, statement: str, deletion: _Deletion) -> bool:
        """Repeat a statement while it finds rows. Returns True if some may be left."""
        params = {
            "tenant": deletion.tenant,
            "most": BATCH,
            "kept_as": deletion.kept_as,
            "anonymous": deletion.anonymous,
        }
        for _ in range(MAX_BATCHES):
            if len(await self._database.rows(statement, params)) < BATCH:
                return False
        return True
