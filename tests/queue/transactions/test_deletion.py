"""Rows left in PostgreSQL after a deletion, and deletion by age."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from serve_app.domain.errors import RequestNotFound
from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import Progress, Stage, StoredSnapshot
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.config import DAY_S, Retention
from serve_app.queue.transactions import deletion as module
from serve_app.queue.transactions.deletion import OUTCOME_LOCK, Deletion
from serve_app.settings import TenantLimits
from tests.contract.test_deletion_contract import KEYED, image, new_request, run_request
from tests.queue.database import Ingress, small_statements
from tests.queue.requests import TENANT, lease, make_finish, report

OF_A_REQUEST = (
    "requests",
    "attempts",
    "events",
    "artifacts",
    "progress",
    "partial_results",
    "undelivered",
    "idempotency_keys",
)


async def remaining_tables(database: Database) -> list[str]:
    """Tables that have rows of a request."""
    return [
        table
        for table in OF_A_REQUEST
        if (await database.rows(f"SELECT count(*) FROM {table}"))[0][0]
    ]


async def unwanted_keys(database: Database) -> set[str]:
    return {
        key
        for (key,) in await database.rows(
            "SELECT key FROM jobs WHERE kind = 'file' AND due_at <= now()"
        )
    }


async def store_snapshot(queue: PostgresQueue, lease_key: LeaseKey) -> str:
    asked_for = await queue.report(replace(report(lease_key), wants_tickets=(lease_key,)))
    ((_, ticket),) = asked_for.snapshot_tickets
    kept = StoredSnapshot(ticket.key, 1)
    progress = ((lease_key, Progress(Stage.DENOISING, 1, 4)),)
    await queue.report(
        replace(report(lease_key), snapshots=((lease_key, kept),), progress=progress)
    )
    return ticket.key


async def test_only_the_usage_line_is_left_and_every_object_is_unwanted(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    request = new_request(replay_key="key", body_digest=bytes(32))
    await queue.submit(request)
    await queue.record_undelivered(request, request.id)
    lease_key = (await lease(queue)).key
    snapshot = await store_snapshot(queue, lease_key)
    await queue.finish(make_finish(lease_key, image(request.id)))
    deleted = await queue.delete(TENANT, request.id)
    assert await unwanted_keys(database) == {snapshot, f"r/{request.id}/1/a.png"} >= set(deleted)
    assert await remaining_tables(database) == []
    assert await database.rows("SELECT request_id::text FROM usage") == [(request.id,)]


async def test_of_a_request_with_a_key_the_key_stays_while_it_counts(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    gone = await run_request(queue, **KEYED)
    await queue.delete(TENANT, gone)
    deletion = Deletion(database, Retention())
    await deletion.delete_expired_keys()
    assert await remaining_tables(database) == ["idempotency_keys"]
    await database.rows("UPDATE idempotency_keys SET expires_at = expires_at - interval '25 hours'")
    await deletion.delete_expired_keys()
    assert await remaining_tables(database) == []
    assert (await queue.submit(new_request(**KEYED))).id != gone


EXPIRED = """
INSERT INTO idempotency_keys (tenant, endpoint, key, request_id, created_at, expires_at)
SELECT 't', 'e', n::text, gen_random_uuid(), now() - interval '25 hours', now() - interval '1 hour'
FROM generate_series(1, 450) n
"""


async def test_many_keys_that_expire_at_once_are_freed_in_small_statements(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.rows(EXPIRED)
    deletion = Deletion(database, Retention())
    counted = "SELECT count(*)::integer FROM idempotency_keys"
    async with small_statements(database, "DELETE", "idempotency_keys"):
        monkeypatch.setattr(module, "MAX_BATCHES", 1)
        await deletion.delete_expired_keys()
        assert await database.rows(counted) == [(250,)]
        monkeypatch.undo()
        await deletion.delete_expired_keys()
    assert await database.rows(counted) == [(0,)]


async def test_what_another_ingress_has_in_memory_is_gone_there_too(ingress: Ingress) -> None:
    here, there = await ingress(), await ingress()
    gone = await run_request(here)
    await there.get(TENANT, gone)
    await here.delete(TENANT, gone)

    async def until_gone() -> None:
        while True:
            await there.get(TENANT, gone)
            await asyncio.sleep(0.01)

    with pytest.raises(RequestNotFound):  # without the notification this would take a minute
        await asyncio.wait_for(until_gone(), 10)


async def make_aged_request(
    queue: PostgresQueue, database: Database, days: float, **changes: object
) -> str:
    """Id of a request that ended ``days`` ago."""
    id_ = await run_request(queue, **changes)
    was = id_.replace("-", "")
    ((old,),) = await database.rows(
        "SELECT to_hex((extract(epoch FROM now() - make_interval(secs => %(s)s)) * 1000)::bigint)",
        {"s": days * DAY_S + 2},
    )
    now = f"{old:0>12}{was[12:]}"
    for table, column in (
        ("requests", "id"),
        ("events", "request_id"),
        ("artifacts", "request_id"),
    ):
        await database.rows(
            f"UPDATE {table} SET {column} = %(now)s::text::uuid "
            f"WHERE {column} = %(was)s::text::uuid",
            {"now": now, "was": was},
        )
    await database.rows(
        "UPDATE requests SET finished_at = now() - make_interval(secs => %(s)s) WHERE id = "
        "%(now)s::text::uuid",
        {"s": days * DAY_S, "now": now},
    )
    ((id_,),) = await database.rows("SELECT %(now)s::text::uuid::text", {"now": now})
    return id_


async def test_age_deletes_what_ended_long_enough_ago_by_tenant(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    for tenant in ("ann", "bob", "cleo"):
        for days in (0, 2, 9):
            await make_aged_request(queue, database, days, tenant=tenant)
    waiting = new_request(tenant="bob")
    await queue.submit(waiting)
    retention = Retention(
        7,
        {"bob": TenantLimits(retention_days=1), "cleo": TenantLimits(weight=2)},
    )
    gone = await Deletion(database, retention).delete_aged()
    rows = await database.rows("SELECT tenant, count(*)::integer FROM requests GROUP BY tenant")
    assert dict(rows) == {"ann": 2, "bob": 2, "cleo": 2}
    assert await unwanted_keys(database) == {
        key
        for (key,) in await database.rows(
            "SELECT key FROM jobs WHERE kind = 'file' AND key NOT IN (SELECT key FROM artifacts)"
        )
    }
    assert len(gone) == len(await unwanted_keys(database)) == 4
    assert await Deletion(database, retention).delete_aged() == []
    assert (await queue.get("bob", waiting.id)).id == waiting.id


async def test_age_takes_no_lock_for_tenants_with_nothing_to_delete(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await make_aged_request(queue, database, 2)
    async with await psycopg.AsyncConnection.connect(ingress.conninfo) as other:
        await other.execute("SELECT pg_advisory_xact_lock(%s)", (OUTCOME_LOCK,))
        async with asyncio.timeout(120):
            assert await Deletion(database, Retention(7)).delete_aged() == []


async def test_without_retention_nothing_is_deleted(ingress: Ingress, database: Database) -> None:
    queue = await ingress()
    kept = await make_aged_request(queue, database, 4000)
    assert await Deletion(database, Retention()).delete_aged() == ()
    assert (await queue.get(TENANT, kept)).id == kept
