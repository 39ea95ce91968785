"""Ageing of many uploads at once."""

from __future__ import annotations

import psycopg
import pytest

from serve_app.postgres.database import Database
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions import uploads as module
from serve_app.queue.transactions.uploads import PostgresUploads
from tests.queue.database import small_statements

MANY = """
INSERT INTO uploads (key, id, tenant, media_type, state, size, created_at)
SELECT 'u/' || t || n || '/a.png', 'id', t, 'image/png', 'whole', 1, now() - interval '9 days'
FROM generate_series(1, %(each)s::integer) n, unnest(ARRAY['ann', 'bob']) t
"""
MARKED = "SELECT count(*)::integer FROM uploads WHERE state = 'unwanted'"


async def test_many_uploads_are_aged_in_small_statements(database: Database) -> None:
    await database.rows(MANY, {"each": 450})
    async with small_statements(database, "UPDATE", "uploads"):
        await PostgresUploads(database, Retention(days=7)).mark_aged()
    assert await database.rows(MARKED) == [(900,)]


async def test_one_call_ages_a_bounded_number_and_the_next_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "MAX_STATEMENTS", 4)
    await database.rows(MANY, {"each": 5})
    book = PostgresUploads(database, Retention(file_days=7))
    marked: list[int] = []
    for _ in range(3):
        await book.mark_aged()
        marked.append((await database.rows(MARKED))[0][0])
    assert marked == [7, 10, 10]


async def test_an_upload_that_a_new_file_holds_is_aged_later_and_keeps_no_other_waiting(
    conninfo: str, database: Database
) -> None:
    await database.rows(MANY, {"each": 1})
    book = PostgresUploads(database, Retention(days=7))
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        await connection.execute("SELECT FROM uploads WHERE tenant = 'ann' FOR SHARE")
        await book.mark_aged()
        assert await database.rows(MARKED) == [(1,)]
    await book.mark_aged()
    assert await database.rows(MARKED) == [(2,)]
