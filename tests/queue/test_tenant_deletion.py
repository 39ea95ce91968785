"""Deletion of a tenant: nothing of it is left in any table, and nothing of others is gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.upload import Upload
from serve_app.ingress.services.file_collector import FileCollector
from serve_app.jobs.jobs import Job
from serve_app.jobs.postgres import PostgresJobs
from serve_app.jobs.worker import JobWorker
from serve_app.postgres.database import Database, Lock
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.config import Retention
from serve_app.queue.tenant_deletion import KEPT, TenantDeletionJob
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.storage.directory import DirectoryStorage
from serve_app.telemetry.clock import SystemClock
from serve_app.tenants.deletions import PostgresTenantDeletions, UsageKept
from serve_app.tenants.key_ring import KeyRing
from tests.contract.test_deletion_contract import KEYED, image, new_request
from tests.queue.database import Ingress
from tests.queue.requests import failure, lease, make_finish
from tests.queue.unwanted_files import delete_files

GONE, STAYS = "ann", "bob"
BOSS = Actor("boss", "10.0.0.7")
JOB = Job("tenant", GONE, lease="", attempts=1)

TABLES = """
SELECT table_name::text, max(column_name::text) FROM information_schema.columns
WHERE table_schema = current_schema() AND column_name IN ('tenant', 'owner') GROUP BY 1 ORDER BY 1
"""  # of both, `tenant`: an owner of a call to a provider may be the operator
WITHOUT_TENANT = (
    *("attempts", "events", "progress", "partial_results", "undelivered"),
    *("lifecycles", "webhook_tries"),
)
"""Tables of what belongs to requests or deliveries."""
FILLED = """
INSERT INTO favourites (tenant, request_id) VALUES ('{0}', '{1}');
INSERT INTO share_links (id, digest, tenant, request_id, created_by, expires_at)
    VALUES ('share-{0}', '\\x{2}', '{0}', '{1}', 'key', now());
INSERT INTO drafts (id, tenant, request_id, key, size, sha256, facts, expires_at)
    VALUES ('draft-{0}', '{0}', '{1}', 'd/{0}.bin', 1, '', '{{}}', now() + interval '1 day');
INSERT INTO webhook_deliveries (request_id, tenant, url) VALUES ('{1}', '{0}', 'http://x');
INSERT INTO webhook_tries (delivery, claim, took_s, status)
    SELECT id, 1, 1, 200 FROM webhook_deliveries WHERE tenant = '{0}' LIMIT 1;
INSERT INTO budget_warnings (tenant, period, threshold, used, budget, currency)
    VALUES ('{0}', now(), 0.5, 1, 2, 'EUR');
INSERT INTO tenant_quotas (tenant) VALUES ('{0}');
INSERT INTO fair_lanes (pool, tenant) VALUES ('elsewhere', '{0}');
INSERT INTO running_counts (kind, name, counted, since, first)
    VALUES ('tenant', '{0}', 0, now(), now());
INSERT INTO lifecycles (request_id, keep_s) VALUES ('{1}', 60);
INSERT INTO usage_days (day, tenant, key_id, endpoint, state, requests, run_s, steps, units, images,
    megapixels, billed, amount)
    VALUES ('2026-01-01', '{0}', 'k1', 'e', 'succeeded', 3, 1, 2, 3, 4, 5, 6, 7),
           ('2026-01-01', '{0}', 'k2', 'e', 'succeeded', 4, 1, 2, 3, 4, 5, 6, 7);
INSERT INTO batches (id, tenant, key_id, origin, endpoint, input_file, input_key, expires_at)
    VALUES ('batch-{0}', '{0}', 'k1', '', '/run/e', 'file-{0}', 'u/b-{0}', now());
INSERT INTO batch_lines (batch_id, line, custom_id, start, size) VALUES ('batch-{0}', 1, 'a', 0, 1);
INSERT INTO batch_files (id, tenant, key, name, purpose, size)
    VALUES ('file-{0}', '{0}', 'u/b-{0}', 'a', 'batch', 1);
INSERT INTO file_access (id, tenant, rules) VALUES ('rules-{0}', '{0}', '{{}}');
INSERT INTO file_url_revocations (key, signature, number, tenant)
    VALUES ('p/{0}', '', nextval('file_url_revocation_numbers'), '{0}');
INSERT INTO tenant_weights (tenant, name, base, source, created_by)
    VALUES ('{0}', 'style', 'e', '{{}}', 'k1');
INSERT INTO tenant_weight_files (tenant, name, path, digest, size)
    VALUES ('{0}', 'style', '', 'd-{0}', 1);
INSERT INTO workflows (tenant, name, definition, source) VALUES ('{0}', 'flow', '{{}}', '{{}}');
INSERT INTO workflow_runs (request_id, tenant) VALUES ('{1}', '{0}');
INSERT INTO workflow_steps (run_id, node, item, app, request_id)
    VALUES ('{1}', 'draw', 0, 'e', gen_random_uuid());
INSERT INTO comfyui_files (tenant, path, content) VALUES ('{0}', 'a.json', '');
INSERT INTO secrets (owner, name, sealed, changed_by) VALUES ('{0}', 'FAL_KEY', '', 'k1');
INSERT INTO hosted_calls (id, request_id, tenant, attempt, provider, owner, endpoint, input_hash)
    VALUES ('call-{0}', '{1}', '{0}', 1, 'fal', '{0}', 'e', '{0}');
INSERT INTO shadows (original, tenant, endpoint, target) VALUES ('{1}', '{0}', 'e', 'f');
INSERT INTO jobs (kind, key, tenant) VALUES ('weights', '{0}/style', '{0}');
INSERT INTO jobs (kind, key, tenant) VALUES ('notice', 'evt-{0}', '{0}');
INSERT INTO events (request_id, sequence, message) VALUES ('{1}', 99, '{{}}');
"""


class Fallible(Database):
    """Database that is away from a call on."""

    calls = 0
    away_from: int | None = None

    async def rows(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        lock: Lock | None = None,
        limit_s: float | None = None,
    ) -> list[tuple[Any, ...]]:
        self.calls += 1
        if self.away_from is not None and self.calls >= self.away_from:
            raise DatabaseUnavailable("It crashed here.")
        return await super().rows(sql, params, lock=lock, limit_s=limit_s)


async def fill(queue: PostgresQueue, database: Database, tenant: str, folder: Path) -> None:
    """Give a tenant rows in every table, and files: ended, failed, keyed, queued, running."""
    await KeyRing(database, SystemClock()).create(tenant)
    first = new_request(tenant=tenant, pool=tenant)
    for changes in ({}, KEYED):
        request = first if not changes else new_request(tenant=tenant, pool=tenant, **changes)
        await queue.submit(request)
        lease_key = (await lease(queue, pool=tenant)).key
        await queue.finish(make_finish(lease_key, image(request.id)))
    broken = new_request(tenant=tenant, pool=tenant)
    await queue.submit(broken)
    await queue.finish(make_finish((await lease(queue, pool=tenant)).key, failure()))
    running = new_request(tenant=tenant, pool=tenant)
    await queue.submit(running)
    await lease(queue, pool=tenant)
    await queue.submit(new_request(tenant=tenant, pool=tenant))
    digest = tenant.encode().hex()
    for statement in FILLED.format(tenant, first.id, digest).split(";\n"):
        if statement.strip():
            await database.rows(statement)
    book = PostgresUploads(database, Retention())
    for state in ("open", "whole"):
        upload = Upload(f"u/{tenant}-{state}.png", f"{tenant}-{state}", tenant, "image/png", None)
        await book.open(upload)
        if state == "whole":
            await book.finish(upload.key, 3)
    rows = await database.rows(
        "SELECT key FROM artifacts WHERE tenant = %(t)s UNION SELECT key FROM drafts "
        "WHERE tenant = %(t)s UNION SELECT key FROM uploads WHERE tenant = %(t)s",
        {"t": tenant},
    )
    for (key,) in rows:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(tenant.encode())


async def count_rows(database: Database, tenant: str) -> dict[str, int]:
    """Rows of a tenant by table, for every table that has tenants."""
    counts: dict[str, int] = {}
    for table, column in await database.rows(TABLES):
        ((rows,),) = await database.rows(
            f"SELECT count(*) FROM {table} WHERE {column} = %(tenant)s", {"tenant": tenant}
        )
        counts[table] = rows
    ((counts["tenants"],),) = await database.rows(
        "SELECT count(*) FROM tenants WHERE id = %(tenant)s", {"tenant": tenant}
    )
    ((counts["running_counts"],),) = await database.rows(
        "SELECT count(*) FROM running_counts WHERE name = %(tenant)s", {"tenant": tenant}
    )
    return counts


async def totals(database: Database) -> dict[str, int]:
    return {
        table: (await database.rows(f"SELECT count(*) FROM {table}"))[0][0]
        for table in WITHOUT_TENANT
    }


def files_of(folder: Path, tenant: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.read_text() == tenant]


def job_of(queue: PostgresQueue, database: Database) -> TenantDeletionJob:
    parts = queue.parts
    return TenantDeletionJob(database, parts.removal, parts.operations, parts.garbage, parts.after)


def collector_of(database: Database, folder: Path) -> FileCollector:
    storage = DirectoryStorage(folder, b"", "", SystemClock())
    return FileCollector(PostgresUploads(database, Retention()), storage)


async def finish(job: TenantDeletionJob, database: Database, folder: Path) -> None:
    """Do the job, and delete files, until it has ended."""
    collector = collector_of(database, folder)
    for _ in range(20):
        retries = await job.run([JOB])
        await collector.delete_garbage_uploads()
        await delete_files(database, DirectoryStorage(folder, b"", "", SystemClock()))
        if not retries:
            return
    raise AssertionError(await count_rows(database, GONE))


async def test_nothing_of_a_deleted_tenant_is_left_in_any_table_or_on_disk(
    ingress: Ingress, database: Database, tmp_path: Path
) -> None:
    queue = await ingress()
    await fill(queue, database, STAYS, tmp_path)
    counts, of_one = await count_rows(database, STAYS), await totals(database)
    await fill(queue, database, GONE, tmp_path)
    before = await count_rows(database, GONE)
    empty = [name for name, rows in before.items() if not rows and name not in KEPT]
    assert not empty, f"Give the tenant of this test rows in {empty}."
    assert files_of(tmp_path, GONE)
    kept_files = files_of(tmp_path, STAYS)
    await database.rows(
        "INSERT INTO tenant_deletions (tenant, asked_at, actor, kept_as) "
        "VALUES ('cyd', now(), 'boss', 'deleted:cyd')"
    )
    await database.rows("INSERT INTO upload_totals (tenant, bytes) VALUES ('cyd', 0)")
    deletions = PostgresTenantDeletions(database, SystemClock())
    asked_for = await deletions.ask(GONE, UsageKept.NOTHING, BOSS)
    assert asked_for is not None
    assert (asked_for.tenant, asked_for.ended_at, asked_for.left["requests"]) == (GONE, None, 5)
    await finish(job_of(queue, database), database, tmp_path)
    left = {name: rows for name, rows in (await count_rows(database, GONE)).items() if rows}
    assert left.keys() <= KEPT, f"These tables still have rows of a deleted tenant: {left}"
    assert files_of(tmp_path, GONE) == []
    assert files_of(tmp_path, STAYS) == kept_files
    others = await count_rows(database, STAYS)
    assert {k: v for k, v in others.items() if k not in KEPT} == {
        k: v for k, v in counts.items() if k not in KEPT
    }
    assert await totals(database) == of_one
    assert await database.rows("SELECT DISTINCT tenant FROM usage_days") == [(STAYS,)]
    of_third = await count_rows(database, "cyd")
    assert {name for name, rows in of_third.items() if rows} == {
        "tenant_deletions",
        "upload_totals",
    }
    also_asked = await deletions.find("cyd")
    assert also_asked is not None
    assert also_asked.ended_at is None
    ended = await deletions.find(GONE)
    assert ended is not None
    assert ended.ended_at is not None
    assert set(ended.left.values()) == {0}


@pytest.mark.long
async def test_a_job_that_crashes_at_any_statement_is_finished_by_another(
    ingress: Ingress, conninfo: str, database: Database, tmp_path: Path
) -> None:
    queue = await ingress()
    fallible = Fallible(conninfo)
    await fallible.start()
    await fill(queue, database, GONE, tmp_path)
    await PostgresTenantDeletions(database, SystemClock()).ask(GONE, UsageKept.NAMED, BOSS)
    collector = collector_of(database, tmp_path)
    for crash_at in range(1, 40):
        fallible.calls, fallible.away_from = 0, crash_at
        job = job_of(queue, fallible)
        try:
            await job.run([JOB])
        except DatabaseUnavailable:
            assert crash_at == fallible.calls
        await collector.delete_garbage_uploads()
    await finish(job_of(queue, database), database, tmp_path)
    left = {name for name, rows in (await count_rows(database, GONE)).items() if rows}
    assert left <= KEPT
    assert await database.rows(
        "SELECT sum(requests)::int, sum(amount)::int FROM usage_days WHERE day = '2026-01-01'"
    ) == [(7, 14)]
    await fallible.aclose()


@pytest.mark.long
@pytest.mark.parametrize(
    ("usage", "names", "keys"),
    [
        (UsageKept.NAMED, "deleted:ann:", {"k1", "k2"}),
        (UsageKept.ANONYMOUS, "deleted:", {None}),
    ],
)
async def test_sums_of_usage_are_kept_under_a_name_that_no_tenant_can_have(
    ingress: Ingress,
    database: Database,
    tmp_path: Path,
    usage: UsageKept,
    names: str,
    keys: set[str | None],
) -> None:
    queue = await ingress()
    await fill(queue, database, GONE, tmp_path)
    deletions = PostgresTenantDeletions(database, SystemClock())
    await deletions.ask(GONE, usage, BOSS)
    ((requests,),) = await database.rows("SELECT count(*) FROM usage")
    await finish(job_of(queue, database), database, tmp_path)
    rows = await database.rows("SELECT tenant, key_id, requests FROM usage_days")
    assert await database.rows("SELECT request_id FROM usage") == []
    assert len({tenant for tenant, *_ in rows}) == 1
    assert rows[0][0].startswith(names)
    assert (GONE in rows[0][0]) == (usage is UsageKept.NAMED)
    assert {key for _, key, _ in rows if key} == keys - {None}
    assert sum(count for *_, count in rows) == 7 + requests + 2  # one ran and one waited
    deletion = await deletions.find(GONE)
    assert deletion is not None
    assert (deletion.usage_kept_as is None) == (usage is UsageKept.ANONYMOUS)


@pytest.mark.long
async def test_the_name_is_taken_until_the_end_and_the_tenant_stays_disabled(
    ingress: Ingress, database: Database, tmp_path: Path
) -> None:
    queue = await ingress()
    await fill(queue, database, GONE, tmp_path)
    deletions = PostgresTenantDeletions(database, SystemClock())
    first = await deletions.ask(GONE, UsageKept.NAMED, BOSS)
    assert await deletions.ask(GONE, UsageKept.NOTHING, BOSS) == first
    await database.rows("UPDATE tenants SET disabled_at = NULL WHERE id = 'ann'")
    assert await database.rows("SELECT id FROM tenants WHERE disabled_at IS NULL") == []
    await finish(job_of(queue, database), database, tmp_path)
    assert await database.rows("SELECT id FROM tenants") == []
    assert await deletions.ask(GONE, UsageKept.NAMED, BOSS) is None
    await KeyRing(database, SystemClock()).create(GONE)
    again = await deletions.ask(GONE, UsageKept.NAMED, BOSS)
    assert again is not None
    assert again.ended_at is None
    acts = await database.rows("SELECT actor FROM audit WHERE action = 'tenant.delete'")
    assert acts == [("boss",), ("boss",)]


@pytest.mark.long
async def test_nothing_is_deleted_before_all_processes_refuse_the_keys(
    ingress: Ingress, database: Database, tmp_path: Path
) -> None:
    queue = await ingress()
    await fill(queue, database, GONE, tmp_path)
    await PostgresTenantDeletions(database, SystemClock()).ask(GONE, UsageKept.NAMED, BOSS)
    await queue.parts.operations.log.seal()  # which gives its entry a tenant
    before = await count_rows(database, GONE)
    jobs = PostgresJobs(database)
    await JobWorker(jobs, [queue.parts.deletions]).run_due()
    assert await count_rows(database, GONE) == before
    await database.rows("UPDATE jobs SET due_at = now() WHERE kind = 'tenant'")
    assert await jobs.due_kinds(["tenant"])
