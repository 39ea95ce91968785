from __future__ import annotations

import asyncio
import hashlib
import re
from typing import LiteralString, cast

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.domain.lease import Verdict
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue.store.migrations import Migration, check_applied, migrate, shipped
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, done, lease, new
from tests.queue.schema_dump import SCHEMA

BASELINE_SHA256 = "1d22a6b5233cec215cd6adb70d2449d86c1c334ad69aca6b8660fd4487088941"
"""Never change this: released databases have been made by the file. Instead, add a new migration
with the next number.
"""


def test_the_baseline_is_frozen() -> None:
    content = (SCHEMA / "0001_baseline.sql").read_bytes()
    assert hashlib.sha256(content).hexdigest() == BASELINE_SHA256, (
        "0001_baseline.sql is frozen, because released databases have been made by it. "
        "Undo the change, and add a new migration with the next number instead."
    )


def test_they_are_numbered_without_gaps() -> None:
    assert [each.number for each in shipped()] == [*range(1, len(shipped()) + 1)]
    assert shipped()[0].name == "0001_baseline.sql"


def test_every_file_but_the_schema_for_readers_is_a_migration() -> None:
    files = {path.name for path in SCHEMA.glob("*.sql")}
    assert files == {each.name for each in shipped()} | {"schema.sql"}


async def test_several_that_start_at_once_apply_each_once_and_nothing_later(empty: str) -> None:
    for _ in range(2):
        await asyncio.gather(*(migrate(empty) for _ in range(4)))
        with psycopg.connect(empty) as connection:
            rows = connection.execute("SELECT number FROM migrations ORDER BY number").fetchall()
        assert [row[0] for row in rows] == [each.number for each in shipped()]


async def test_a_database_of_a_newer_darkroom_is_refused(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("INSERT INTO migrations (number, name) VALUES (9999, 'future')")
        try:
            with pytest.raises(Misconfigured, match="newer Darkroom"):
                await migrate(conninfo)
        finally:
            connection.execute("DELETE FROM migrations WHERE number = 9999")


async def test_a_database_of_another_encoding_is_refused(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as maker:
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


LAST = shipped()[-1].number
NEXT = Migration(
    LAST + 1,
    f"{LAST + 1:04}_next.sql",
    f"""-- compatible since {LAST}
    ALTER TABLE requests ADD COLUMN colour text, ADD COLUMN shade integer NOT NULL DEFAULT 3;
    ALTER TABLE replicas ADD COLUMN colour text;
    CREATE TABLE colours (name text PRIMARY KEY);
    """,
)
"""A migration that the next version might apply while this version runs."""


def test_each_after_the_baseline_says_since_when_it_is_compatible() -> None:
    for each in shipped()[1:]:
        since = each.compatible_since
        assert since is not None, f"{each.name} ends every version before it: is that meant?"
        assert since < each.number


async def test_the_version_before_goes_on_and_starts_again_while_it_is_updated(
    empty: str, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    await migrate(empty)
    ingress = Ingress(empty, terms, liveness)
    try:
        running = await ingress()
        before = await running.submit(new())
        await migrate(empty, [*shipped(), NEXT])
        await migrate(empty)  # as a process of this version does at its start
        started = await ingress()
        for queue in (running, started):
            await queue.submit(new())
            held = (await lease(queue)).held
            assert await queue.finish(done(held)) is Verdict.ACCEPTED
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
    await migrate(empty, [*shipped(), NEXT, Migration(LAST + 2, "later.sql", sql)])
    with pytest.raises(Misconfigured, match=f"tables are at {LAST + 2}, .* up to {LAST}"):
        await migrate(empty)
    database = Database(empty)
    await database.start()
    try:
        with pytest.raises(Misconfigured, match="newer Darkroom"):
            await check_applied(database)
    finally:
        await database.aclose()


def test_no_migration_after_the_baseline_builds_an_index_while_others_wait() -> None:
    for each in shipped()[1:]:
        made = set(re.findall(r"CREATE TABLE (\w+)", each.sql))
        for table in re.findall(r"CREATE (?:UNIQUE )?INDEX \w+\s+ON (\w+)", each.sql):
            assert table in made, f"{each.name}: build the index of {table} CONCURRENTLY"


def test_all_statements_outside_a_transaction_can_be_repeated() -> None:
    once = re.compile(
        r"^(?:CREATE (?!OR REPLACE|.*IF NOT EXISTS)|DROP (?!.*IF EXISTS)|ALTER TABLE|INSERT|UPDATE)"
        ".*",
        re.MULTILINE,
    )
    for each in shipped():
        if each.outside_transaction:
            assert once.findall(each.sql) == [], f"{each.name}: it is repeated after a lock timeout"


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
        (NEXT, "SELECT count(*) FROM requests", "AccessExclusiveLock"),  # as pg_dump
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
            migrating = asyncio.create_task(migrate(empty, [*shipped(), migration]))
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


CONCURRENT = Migration(
    LAST + 1,
    f"{LAST + 1:04}_index.sql",
    f"""-- compatible since {LAST}
    -- one statement, outside a transaction
    CREATE INDEX CONCURRENTLY IF NOT EXISTS by_work ON requests (work);
    """,
)


async def test_an_index_is_built_beside_submits_and_again_after_an_interruption(
    empty: str, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    await migrate(empty)
    ingress = Ingress(empty, terms, liveness)
    try:
        queue = await ingress()
        writer = await psycopg.AsyncConnection.connect(empty)
        await writer.execute("LOCK TABLE requests IN ROW EXCLUSIVE MODE")
        building = asyncio.create_task(migrate(empty, [*shipped(), CONCURRENT]))
        for _ in range(10):
            await queue.submit(new())
            await asyncio.sleep(0.1)
        assert not building.done()
        building.cancel()
        await asyncio.gather(building, return_exceptions=True)
        await writer.close()
        await migrate(empty, [*shipped(), CONCURRENT])
        async with await psycopg.AsyncConnection.connect(empty) as reader:
            rows = await reader.execute(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_work'::regclass"
            )
            assert await rows.fetchall() == [(True,)]
    finally:
        await ingress.aclose()


async def test_readiness_reports_tables_of_an_older_darkroom(database: Database) -> None:
    older = rf"older Darkroom: its tables are at {LAST}, .* needs them at {LAST + 1}\. .*\.$"
    with pytest.raises(Misconfigured, match=older):
        await check_applied(database, [*shipped(), NEXT])


async def test_readiness_reports_a_database_without_tables(conninfo: str) -> None:
    empty = Database(make_conninfo(conninfo, dbname="postgres"))
    await empty.start()
    try:
        with pytest.raises(Misconfigured, match="its tables are at 0,"):
            await check_applied(empty)
    finally:
        await empty.aclose()


TWO_STATEMENTS = Migration(
    LAST + 1,
    f"{LAST + 1:04}_indexes.sql",
    f"""-- compatible since {LAST}
    -- one statement, outside a transaction
    CREATE INDEX CONCURRENTLY IF NOT EXISTS by_work ON requests (work);
    -- another statement, outside a transaction
    CREATE INDEX CONCURRENTLY IF NOT EXISTS by_digest ON requests (endpoint_digest);
    """,
)


async def test_a_migration_may_build_several_indexes_beside_submits(empty: str) -> None:
    await migrate(empty, [*shipped(), TWO_STATEMENTS])
    with psycopg.connect(empty) as connection:
        valid = connection.execute(
            "SELECT indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE c.relname IN ('by_work', 'by_digest')"
        ).fetchall()
    assert valid == [(True,), (True,)]
