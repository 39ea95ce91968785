"""The audit log as a chain, in PostgreSQL: sealing by several processes, and deletion by age."""

from __future__ import annotations

import asyncio
import random

import psycopg
import pytest

from serve_app.domain.audit.acts import Actor, NewAct
from serve_app.domain.audit.chain import PRUNE, BrokenChain, verify
from serve_app.postgres.database import Database
from serve_app.queue import audit_log
from serve_app.queue.audit_log import PostgresAuditLog
from serve_app.queue.queue import assemble
from serve_app.queue.store.config import Retention
from serve_app.settings import Config
from serve_app.telemetry.clock import SystemClock
from serve_app.tenants.key_ring import KeyRing
from tests.contract.waiting import eventually
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, new

AGED = """
INSERT INTO audit (at, actor, action, subject)
SELECT now() - make_interval(days => days), 'key', 'endpoint.pause', days::text
FROM unnest(%(days)s::integer[]) days
"""
ACTS = "SELECT subject FROM audit WHERE action <> 'audit.prune' ORDER BY id"
FROM_THE_VERSION_BEFORE = """
DELETE FROM audit WHERE id IN (SELECT id FROM audit ORDER BY id LIMIT 1000)
    AND at < now() - interval '365 days'
"""
KEPT = Retention(audit_days=365)


async def write(database: Database, *days: int) -> None:
    await database.rows(AGED, {"days": [*days]})


async def export_lines(log: PostgresAuditLog) -> list[str]:
    await log.seal()
    return [entry.line for entry in await log.chain(limit=100_000)]


async def subjects(database: Database) -> list[str]:
    rows = await database.rows(ACTS)
    return [subject for (subject,) in rows]


async def test_what_many_processes_write_and_seal_at_once_is_one_chain(conninfo: str) -> None:
    databases = [Database(conninfo) for _ in range(4)]
    for opened in databases:
        await opened.start()

    async def act(database: Database, seed: int) -> None:
        log, chance = PostgresAuditLog(database), random.Random(seed)  # noqa: S311
        for _ in range(15):
            await write(database, *range(chance.randint(1, 40)))
            await log.seal()

    await asyncio.gather(*(act(source, seed) for seed, source in enumerate(databases * 2)))
    lines = await export_lines(PostgresAuditLog(databases[0]))
    ((written,),) = await databases[0].rows("SELECT count(*) FROM audit")
    assert verify(lines).entries == verify(lines).last == written
    for opened in databases:
        await opened.aclose()


async def test_an_act_that_commits_after_a_later_one_gets_the_later_place(
    conninfo: str, database: Database
) -> None:
    log = PostgresAuditLog(database)
    async with await psycopg.AsyncConnection.connect(conninfo) as slow:
        await slow.execute("INSERT INTO audit (actor, action, subject) VALUES ('a', 'b', 'slow')")
        await write(database, 1)
        await log.seal()
        await slow.commit()
    await log.seal()
    chain = await log.chain()
    assert [entry.subject for entry in chain] == ["1", "slow"]
    assert chain[0].id > chain[1].id
    assert verify(entry.line for entry in chain).last_hash == chain[1].hash


async def test_rolled_back_acts_leave_no_gap(conninfo: str, database: Database) -> None:
    await write(database, 1)
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        await connection.execute("INSERT INTO audit (actor, action) VALUES ('a', 'b')")
        await connection.rollback()
    await write(database, 2)
    assert verify(await export_lines(PostgresAuditLog(database))).last == 2


async def test_sealed_entries_are_neither_changed_nor_deleted_by_hand(
    conninfo: str, database: Database
) -> None:
    await write(database, 400)
    lines = await export_lines(PostgresAuditLog(database))
    await database.rows("DELETE FROM audit")
    await database.rows(FROM_THE_VERSION_BEFORE)
    assert await export_lines(PostgresAuditLog(database)) == lines
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        with pytest.raises(psycopg.errors.RaiseException, match=r"entry 1 .* cannot be changed"):
            await connection.execute("UPDATE audit SET actor = 'someone else'")


async def test_whoever_gets_round_the_guard_breaks_the_chain(
    conninfo: str, database: Database
) -> None:
    await write(database, *range(5))
    log = PostgresAuditLog(database)
    await log.seal()
    async with await psycopg.AsyncConnection.connect(conninfo) as owner:
        await owner.execute("ALTER TABLE audit DISABLE TRIGGER keep_sealed_entries")
        await owner.execute("DELETE FROM audit WHERE sequence = 3")
        await owner.execute("ALTER TABLE audit ENABLE TRIGGER keep_sealed_entries")
    with pytest.raises(BrokenChain, match="line 3: it is entry 4"):
        verify(await export_lines(log))


async def test_old_entries_are_deleted_and_a_checkpoint_keeps_the_chain(database: Database) -> None:
    old = [400] * (audit_log.PRUNE_BATCH + 5)
    log = PostgresAuditLog(database)
    await write(database, *old, 366, 300, 0)
    await log.prune(Retention())
    assert len(await subjects(database)) == len(old) + 3
    await log.seal()
    before = [entry.hash for entry in await log.chain(limit=100_000)]
    await log.prune(KEPT)
    assert await subjects(database) == ["300", "0"]
    lines = await export_lines(log)
    verified = verify(lines)
    assert (verified.first, verified.last) == (len(old) + 2, len(old) + 5)
    checkpoint = [entry for entry in await log.chain() if entry.action == PRUNE][-1]
    assert checkpoint.detail == {
        "sequence": len(old) + 1, "hash": before[len(old)], "entries": 6,
    }  # fmt: skip
    with pytest.raises(BrokenChain, match=f"entries 1 to {len(old) + 1} are missing"):
        verify(lines[:2])


async def test_checkpoints_alone_are_not_replaced_by_more_checkpoints(database: Database) -> None:
    log = PostgresAuditLog(database)
    await write(database, 400, 400, 0)
    await log.prune(Retention(audit_days=365))
    for _ in range(3):
        await log.prune(Retention(audit_days=1e-9))
    ((checkpoints,),) = await database.rows(
        "SELECT count(*) FROM audit WHERE action = 'audit.prune'"
    )
    assert checkpoints == 2
    assert verify(await export_lines(log)).entries == 2


async def test_the_last_entry_stays_so_that_the_chain_goes_on(database: Database) -> None:
    log = PostgresAuditLog(database)
    await write(database, 400)
    await log.prune(KEPT)
    assert await subjects(database) == ["400"]
    await write(database, 0)
    assert verify(await export_lines(log)).last == 2


@pytest.mark.long
async def test_an_ingress_seals_and_deletes_by_itself(conninfo: str, database: Database) -> None:
    await write(database, 400, 1)
    retention = Retention.of(Config())
    queue = assemble(
        *(database, SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), "one"),
        retention=retention,
    )
    await queue.start()

    async def done() -> bool:
        pruned = await subjects(database) == ["1"]
        return pruned and not await database.rows("SELECT id FROM audit WHERE sequence IS NULL")

    try:
        await eventually(done)
        assert verify(entry.line for entry in await queue.operations.audit_chain()).entries == 2
    finally:
        await queue.aclose()


async def test_a_seal_keeps_the_tenant_that_an_act_is_about(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    request = await queue.submit(new())
    keys = KeyRing(database, SystemClock())
    operator, own = await keys.create("operators"), await keys.create("bob")
    actor = Actor(operator.id, "10.0.0.7")
    await queue.operations.fail(request.id, actor, "It hangs")
    await queue.operations.pause("e/1", actor)
    await queue.operations.record(
        [
            NewAct(actor, "tenant.read", "bob"),
            NewAct(Actor(own.id, "10.0.0.8"), "secret.set", "X", {"tenant": "bob"}),
            NewAct(actor, "share.create", "link", {"tenant": "cleo"}),
            NewAct(actor, "request.fail", "not an id"),
        ]
    )
    await queue.operations.seal_audit()
    chain = await queue.operations.audit_chain()
    acts = [entry for entry in chain if not entry.action.startswith("key.")]
    assert [entry.tenant for entry in acts] == [TENANT, "", "bob", "bob", "cleo", ""]
    seen = [
        entry
        for entry in await queue.operations.audit(tenant="bob")
        if entry.action != "key.create"
    ]
    assert [(entry.actor, entry.action, entry.address) for entry in seen] == [
        (own.id, "secret.set", "10.0.0.8"),
        (operator.id, "tenant.read", ""),
    ]
    assert await queue.operations.audit(tenant="") == []
