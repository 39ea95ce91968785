"""Brings a database's tables to what this version of Darkroom expects.

Migrations are the numbered files in ``schema/``. They only go forward, each in a transaction of its
own, under an advisory lock, so that ingress replicas that start together do not collide.

An update replaces ingress processes one after the other: the first of the new version changes the
tables, and those of the version before go on, and may be started again. So each migration says
since which the tables were such that a version which knows no later one works with them
(``-- compatible since 18``, its first line). One that says nothing ends all versions before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import LiteralString, cast

import psycopg
from psycopg.errors import UndefinedColumn, UndefinedTable

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.queue.database import Database

LOCK = 0x6461726B  # "dark"
OLDEST_SERVER = 150_000  # PostgreSQL 15

LEDGER = """
CREATE TABLE IF NOT EXISTS migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


_COMPATIBLE_SINCE = re.compile(r"-- compatible since (\d+)$", re.MULTILINE)


APPLIED = "SELECT number, compatible_since FROM migrations"
APPLIED_BEFORE = "SELECT number, NULL::integer FROM migrations"  # the column came with 19
NOTE = "UPDATE migrations SET compatible_since = %s WHERE number = %s"


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def compatible_since(self) -> int | None:
        """Last migration of the oldest version that goes on working; None: no older one does."""
        found = _COMPATIBLE_SINCE.match(self.sql)
        return None if found is None else int(found[1])


@cache  # readiness asks again and again
def shipped() -> tuple[Migration, ...]:
    """Those of this version, in order."""
    files = resources.files("serve_app.queue.schema")
    found = [
        Migration(int(file.name[:4]), file.name, file.read_text(encoding="utf-8"))
        for file in files.iterdir()
        if file.name.endswith(".sql")
    ]
    return tuple(sorted(found, key=lambda each: each.number))


async def migrate(conninfo: str, migrations: Sequence[Migration] | None = None) -> None:
    """Apply what is missing. ``Misconfigured`` for a database that is too old or too new for us,
    ``DatabaseUnavailable`` when it does not answer."""
    wanted = shipped() if migrations is None else migrations
    try:
        async with await psycopg.AsyncConnection.connect(
            conninfo, autocommit=True, connect_timeout=10
        ) as connection:
            if connection.info.server_version < OLDEST_SERVER:
                raise Misconfigured(
                    "Darkroom needs PostgreSQL 15 or later; this server is "
                    f"{connection.info.server_version // 10_000}."
                )
            await connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            await _apply(connection, wanted)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error


async def check_applied(database: Database) -> None:
    """``Misconfigured`` when the tables are older than this version needs them: an older backup may
    have been restored while it runs. Or newer, and not compatible: an update is under way."""
    try:
        rows = await database.rows(APPLIED)
    except UndefinedTable:
        rows = []
    except UndefinedColumn:
        rows = await database.rows(APPLIED_BEFORE)
    applied, wanted = dict(rows), shipped()
    _refuse_newer(applied, wanted)
    if any(each.number not in applied for each in wanted):
        at = max(applied, default=0)
        raise Misconfigured(
            f"This database belongs to an older Darkroom: its tables are at {at}, and this version "
            f"needs them at {wanted[-1].number}. Start Darkroom again: that brings them there."
        )


async def _apply(connection: psycopg.AsyncConnection, wanted: Sequence[Migration]) -> None:
    await connection.execute(LEDGER)
    try:
        cursor = await connection.execute(APPLIED)
    except UndefinedColumn:
        cursor = await connection.execute(APPLIED_BEFORE)
    applied = dict(await cursor.fetchall())
    _refuse_newer(applied, wanted)
    for migration in wanted:
        if migration.number in applied:
            continue
        async with connection.transaction():
            await connection.execute(cast("LiteralString", migration.sql))
            await connection.execute(
                "INSERT INTO migrations (number, name) VALUES (%s, %s)",
                (migration.number, migration.name),
            )
            if migration.compatible_since is not None:
                await connection.execute(NOTE, (migration.compatible_since, migration.number))


def _refuse_newer(applied: Mapping[int, int | None], wanted: Sequence[Migration]) -> None:
    """Unless all that is newer is compatible with what is known here."""
    known, newest = wanted[-1].number, max(applied, default=0)
    newer = [since for number, since in applied.items() if number > known]
    if any(since is None or since > known for since in newer):
        raise Misconfigured(
            f"This database belongs to a newer Darkroom: its tables are at {newest}, and this "
            f"version knows them up to {known}. Install the newer version."
        )
