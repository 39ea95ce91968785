from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.domain.lease import Verdict
from serve_app.domain.request import State
from serve_app.queue.database import Database
from serve_app.queue.migrations import Migration, check_applied, migrate, shipped
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, done, lease, new

FIRST_THAT_SAYS = 19


def test_each_has_a_number_of_its_own() -> None:
    numbers = [each.number for each in shipped()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


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
"""What the version after this one might do, while this one runs."""


def test_each_says_since_when_it_is_compatible() -> None:
    for each in shipped():
        if each.number >= FIRST_THAT_SAYS:
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
        await migrate(empty)  # as one of this version does that starts
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


async def test_readiness_tells_of_tables_of_an_older_darkroom(database: Database) -> None:
    *_, before, last = shipped()
    await database.rows(f"DELETE FROM migrations WHERE number = {last.number}")
    try:
        with pytest.raises(
            Misconfigured, match=rf"older Darkroom: its tables are at {before.number}, .*\.$"
        ):
            await check_applied(database)
    finally:
        await database.rows(
            "INSERT INTO migrations (number, name) VALUES (%(number)s, %(name)s)",
            {"number": last.number, "name": last.name},
        )


async def test_readiness_tells_of_a_database_without_tables(conninfo: str) -> None:
    empty = Database(make_conninfo(conninfo, dbname="postgres"))
    await empty.start()
    try:
        with pytest.raises(Misconfigured, match="its tables are at 0,"):
            await check_applied(empty)
    finally:
        await empty.aclose()
