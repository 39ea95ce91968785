from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.queue.database import Database
from serve_app.queue.migrations import check_applied, migrate, shipped


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


async def test_the_version_before_stays_ready_while_it_is_updated(database: Database) -> None:
    await database.rows("INSERT INTO migrations (number, name) VALUES (9999, 'future')")
    try:
        await check_applied(database)
    finally:
        await database.rows("DELETE FROM migrations WHERE number = 9999")


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
