"""Audit rows that a statement writes along with its change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database

STATEMENT = f"""
WITH changed AS (SELECT unnest(ARRAY['a', 'b']) AS name)
{insert_audit("'it/' || name", "changed")}
"""
ROWS = "SELECT actor, address, action, subject, detail FROM audit ORDER BY id"


@pytest.fixture
async def database(conninfo: str) -> AsyncIterator[Database]:
    database = Database(conninfo)
    await database.start()
    yield database
    await database.aclose()


async def test_each_changed_row_has_a_row_of_the_audit_log(database: Database) -> None:
    # Values are parameters: what looks like SQL is text.
    actor = Actor("'; DROP TABLE audit; --", "10.0.0.7")
    await database.rows(STATEMENT, audit_params(actor, "it.change", tenant="%(actor)s", n=[1, "é"]))
    detail = {"tenant": "%(actor)s", "n": [1, "é"]}
    assert await database.rows(ROWS) == [
        (actor.key_id, "10.0.0.7", "it.change", subject, detail) for subject in ("it/a", "it/b")
    ]


async def test_an_act_without_details_has_none(database: Database) -> None:
    await database.rows(STATEMENT, audit_params(Actor(""), "it.change"))
    assert await database.rows(ROWS) == [
        ("", "", "it.change", "it/a", None),
        ("", "", "it.change", "it/b", None),
    ]


async def test_a_change_without_an_actor_is_not_in_the_audit_log(database: Database) -> None:
    await database.rows(STATEMENT, audit_params(None, "it.change", tenant="acme"))
    assert await database.rows(ROWS) == []
