from __future__ import annotations

import psycopg

from serve_app.queue.store.migrations import migrate
from tests.queue.schema_dump import COMMAND, FILE, pg_dump, schema, statements


async def test_schema_sql_shows_the_tables_as_they_are(empty: str) -> None:
    await migrate(empty)
    assert schema(empty) == FILE.read_text(encoding="utf-8"), f"Run {COMMAND} and commit {FILE}."


def test_schema_sql_leaves_nothing_out(server: str, empty: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute(FILE.read_text(encoding="utf-8").encode())
    migrated, shown = (pg_dump(each, "--schema-only") for each in (server, empty))
    assert statements(shown) == statements(migrated)
    assert len(statements(shown)) == shown.count("\n-- Name: ") > 50
