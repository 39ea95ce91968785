from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import LiteralString, cast

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.domain.lease import Verdict
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue.store.migrations import Migration, check_applied, list_migrations, migrate
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import Ingress, superuser_of
from tests.queue.next_version import COLOURS, INDEXES, LAST, SCHEMA
from tests.queue.requests import TENANT, lease, make_finish, new

BASELINE_SHA256 = "f986781586a798d5bc1521449d72ab7a829092b289bd2f549fd0ab59fedd9a05"
"""Once 0.1.0 is released, never change this: databases have been made by the file. Until then
change it with the file; databases that were made before must be made again.
"""


def test_the_baseline_is_frozen() -> None:
    content = (SCHEMA / "0001_baseline.sql").read_bytes()
    assert hashlib.sha256(content).hexdigest() == BASELINE_SHA256, (
        "0001_baseline.sql is frozen once 0.1.0 is released, because databases have been made by "
        "it. Add a migration with the next number instead, or, before the release, change this sum."
    )


def test_they_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in list_migrations()] == [
        *range(1, len(list_migrations()) + 1)
    ]
    assert list_migrations()[0].name == "0001_baseline.sql"


def test_every_file_is_a_migration() -> None:
    assert {path.name for path in SCHEMA.glob("*.sql")} == {
        migration.name for migration in list_migrations()
    }


async def test_several_that_start_at_once_apply_each_once_and_nothing_later(empty: str) -> None:
    for _ in range(2):
        await asyncio.gather(*(migrate(empty) for _ in range(4)))
        with psycopg.connect(empty) as connection:
            rows = connection.execute("SELECT number FROM migrations ORDER BY number").fetchall()
        assert [row[0] for row in rows] == [migration.number for migration in list_migrations()]


async def test_a_database_of_a_newer_darkroom_is_refused(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("INSERT INTO migrations (number, name) VALUES (9999, 'future')")
        try:
            with pytest.raises(Misconfigured, match="newer Darkroom"):
                await migrate(conninfo)
        finally:
            connection.execute("DELETE FROM migrations WHERE number = 9999")


async def test_a_database_of_another_encoding_is_refused(server: str) -> None:
    with psycopg.connect(superuser_of(server), autocommit=True) as maker:
        maker.execute("CREATE DATABASE ascii ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(Misconfigured, match="UTF8, and this one's is SQL_ASCII"):
                await migrate(make_conninfo(server, dbname="ascii"))
        finally:
            maker.execute("DROP DATABASE ascii WITH (FORCE)")


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate("host=/nowhere user=nobody")


async def test_readiness_passes_the_tables_of_this_version(database: Database) -> None:
    await check_applied(database)


_ONCE = re.compile(
    r"^(?:CREATE (?!OR REPLACE|.*IF NOT EXISTS)|DROP (?!.*IF EXISTS)|ALTER TABLE|INSERT|UPDATE).*",
    re.MULTILINE,
)


def mistakes(migrations: Sequence[Migration]) -> list[str]:
    """What is wrong with migrations after the baseline."""
    problems: list[str] = []
    for migration in migrations:
        since = migration.compatible_since
        if since is None or since >= migration.number:
            problems.append(f"{migration.name} ends every version before it: is that meant?")
        created = set(re.findall(r"CREATE TABLE (\w+)", migration.sql))
        problems += [
            f"{migration.name}: build the index of {table} CONCURRENTLY"
            for table in re.findall(r"CREATE (?:UNIQUE )?INDEX \w+\s+ON (\w+)", migration.sql)
            if table not in created
        ]
        if migration.outside_transaction:
            problems += [
                f"{migration.name} is repeated after a lock timeout: {statement}"
                for statement in _ONCE.findall(migration.sql)
            ]
    return problems


def test_the_version_before_works_and_submits_go_on_beside_each_migration() -> None:
    assert mistakes(list_migrations()[1:]) == []


@pytest.mark.parametrize(
    ("sql", "mistake"),
    [
        ("ALTER TABLE requests ADD COLUMN colour text;", "ends every version before it"),
        ("-- compatible since 1\nCREATE INDEX i ON requests (work);", "requests CONCURRENTLY"),
        (
            INDEXES.sql.replace(" IF NOT EXISTS", ""),
            "repeated after a lock timeout: CREATE INDEX CONCURRENTLY by_work",
        ),
    ],
    ids=["says nothing of compatibility", "builds an index in a transaction", "cannot be repeated"],
)
def test_a_mistake_in_a_migration_is_found(sql: str, mistake: str) -> None:
    assert mistakes([COLOURS, INDEXES]) == []
    assert mistake in mistakes([Migration(LAST + 1, "wrong.sql", sql)])[0]


async def test_the_version_before_goes_on_and_starts_again_while_it_is_updated(
    empty: str, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    await migrate(empty)
    ingress = Ingress(empty, terms, liveness)
    try:
        running = await ingress()
        before = await running.submit(new())
        await migrate(empty, [*list_migrations(), COLOURS])
        await migrate(empty)  # as a process of this version does at its start
        started = await ingress()
        for queue in (running, started):
            await queue.submit(new())
            lease_key = (await lease(queue)).key
            assert await queue.finish(make_finish(lease_key)) is Verdict.ACCEPTED
        ended = await started.get(TENANT, before.id)
        assert (ended.state, len(await started.page(TENANT))) == (State.SUCCEEDED, 3)
        database = Database(empty)
        await database.start()
        await check_applied(database)
        await database.aclose()
    finally:
        await ingress.aclose()


@pytest.mark.parametrize(
    "sql",
    ["", f"-- compatible since {LAST + 1}", "-- as with 1\n-- compatible since 1"],
    ids=["says nothing", "with a later one", "says it elsewhere"],
)
async def test_a_step_that_is_not_compatible_ends_the_version_before(empty: str, sql: str) -> None:
    await migrate(empty, [*list_migrations(), COLOURS, Migration(LAST + 2, "later.sql", sql)])
    with pytest.raises(Misconfigured, match=f"tables are at {LAST + 2}, .* up to {LAST}"):
        await migrate(empty)
    database = Database(empty)
    await database.start()
    try:
        with pytest.raises(Misconfigured, match="newer Darkroom"):
            await check_applied(database)
    finally:
        await database.aclose()


LOCK_REQUESTS = """
SELECT waitstart FROM pg_locks
WHERE relation = 'requests'::regclass AND mode = %s AND NOT granted AND waitstart IS NOT NULL
"""
TRIGGER = Migration(
    LAST + 1,
    f"{LAST + 1:04}_trigger.sql",
    f"""-- compatible since {LAST}
    -- one statement, outside a transaction
    CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RETURN NULL; END';
    -- another statement, outside a transaction
    -- An index would be built CONCURRENTLY.
    CREATE OR REPLACE TRIGGER nothing AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION nothing();
    """,
)


async def lock_requests(connection: psycopg.AsyncConnection, mode: str, count: int) -> None:
    """Wait until a migration has asked for its lock so many times. Each time has its own start."""
    seen: set[object] = set()
    async with asyncio.timeout(60):
        while len(seen) < count:
            seen |= set(await (await connection.execute(LOCK_REQUESTS, (mode,))).fetchall())
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("migration", "long", "mode"),
    [
        (COLOURS, "SELECT count(*) FROM requests", "AccessExclusiveLock"),  # as pg_dump
        (TRIGGER, "LOCK TABLE requests IN ROW EXCLUSIVE MODE", "ShareRowExclusiveLock"),
    ],
    ids=["in a transaction, a reader", "outside, a writer"],
)
async def test_a_migration_behind_a_long_transaction_keeps_no_submit_waiting(
    empty: str, terms: FakeTerms, liveness: FakeLiveness, migration: Migration, long: str, mode: str
) -> None:
    await migrate(empty)
    ingress = Ingress(empty, terms, liveness)
    try:
        queue = await ingress()
        async with await psycopg.AsyncConnection.connect(empty) as other:
            await other.execute(cast("LiteralString", long))  # until its end
            migrating = asyncio.create_task(migrate(empty, [*list_migrations(), migration]))
            # Without the limit there was one request, and submits would fail after lock_timeout.
            given_up = asyncio.create_task(lock_requests(other, mode, 3))
            while not given_up.done():
                await queue.submit(new())
                await asyncio.sleep(0.1)
            await given_up
            assert not migrating.done()
            await other.rollback()
        await asyncio.wait_for(migrating, 60)
    finally:
        await ingress.aclose()


async def test_indexes_are_built_beside_submits_and_again_after_an_interruption(
    empty: str, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    await migrate(empty)
    ingress = Ingress(empty, terms, liveness)
    try:
        queue = await ingress()
        writer = await psycopg.AsyncConnection.connect(empty)
        await writer.execute("LOCK TABLE requests IN ROW EXCLUSIVE MODE")
        building = asyncio.create_task(migrate(empty, [*list_migrations(), INDEXES]))
        for _ in range(10):
            await queue.submit(new())
            await asyncio.sleep(0.1)
        assert not building.done()
        building.cancel()
        await asyncio.gather(building, return_exceptions=True)
        await writer.close()
        await migrate(empty, [*list_migrations(), INDEXES])
        async with await psycopg.AsyncConnection.connect(empty) as reader:
            rows = await reader.execute(
                "SELECT indisvalid FROM pg_index "
                "WHERE indexrelid IN ('by_work'::regclass, 'by_digest'::regclass)"
            )
            assert await rows.fetchall() == [(True,), (True,)]
    finally:
        await ingress.aclose()


async def test_readiness_reports_tables_of_an_older_darkroom(database: Database) -> None:
    older = rf"older Darkroom: its tables are at {LAST}, .* needs them at {LAST + 1}\. .*\.$"
    with pytest.raises(Misconfigured, match=older):
        await check_applied(database, [*list_migrations(), COLOURS])


async def test_readiness_reports_a_database_without_tables(conninfo: str) -> None:
    empty = Database(make_conninfo(conninfo, dbname="postgres"))
    await empty.start()
    try:
        with pytest.raises(Misconfigured, match="its tables are at 0,"):
            await check_applied(empty)
    finally:
        await empty.aclose()
