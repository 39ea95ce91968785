from __future__ import annotations

import asyncio

import psycopg
import pytest

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.queue.migrations import migrate, shipped


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
