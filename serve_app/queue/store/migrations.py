"""Migration of a database's tables to the schema of this version of Darkroom.

Migrations are the numbered files in ``schema/``, from the baseline on, which is frozen. They only
go forward, each in its own transaction, under an advisory lock, so that ingress replicas that start
together do not collide.

An update replaces ingress processes one after the other. The first process of the new version
migrates the tables; processes of the previous version continue, and may be restarted. So the first
line of a migration (``-- compatible since 1``) names the oldest schema level that its tables are
compatible with: a version that knows migration 1, but none after it, still works. A migration
without that line ends all versions before it.

No migration keeps the queue waiting. A step that must wait for a lock, behind a backup or a long
reader, gives up after ``LOCK_TIMEOUT_MS``, in which the queue waits behind it, and tries again. A
migration with the line ``-- one statement, outside a transaction`` can build an index concurrently,
which waits as long as it must, because nothing waits behind it. Each line ``-- another statement,
outside a transaction`` begins a further statement. If it is interrupted, or one of them gives up,
all of it is repeated.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import LiteralString, cast

import psycopg
from psycopg.errors import UndefinedTable

from serve_app.domain.errors import DatabaseUnavailable, Misconfigured
from serve_app.postgres.database import Database, settings

log = logging.getLogger(__name__)

LOCK = 0x6461726B  # "dark"
OLDEST_SERVER = 150_000  # PostgreSQL 15

LEDGER = """
CREATE TABLE IF NOT EXISTS migrations (
    number           integer PRIMARY KEY,
    name             text NOT NULL,
    applied_at       timestamptz NOT NULL DEFAULT now(),
    compatible_since integer
)
"""
APPLIED = "SELECT number, compatible_since FROM migrations"
NOTE = "INSERT INTO migrations (number, name, compatible_since) VALUES (%s, %s, %s)"

_FILE = re.compile(r"(\d{4})_\w+\.sql")
LOCK_TIMEOUT_MS = 500
RETRY_S = 1.0, 2.0
"""Between two tries of a step, at random: what waited behind it catches up meanwhile."""
REPORT_EVERY_S = 30.0
POLL_S = 0.1

INVALID_INDEXES = """
SELECT format('DROP INDEX CONCURRENTLY %I.%I', n.nspname, c.relname)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND n.nspname = current_schema()
"""
"""What an interrupted ``CREATE INDEX CONCURRENTLY`` leaves behind."""

_OUTSIDE = "-- one statement, outside a transaction"
_ANOTHER = "-- another statement, outside a transaction"
# As a statement begins: a comment may have the word too.
_CONCURRENTLY = re.compile(r"^\s*(?:CREATE|DROP)\b[^\n]*\bINDEX CONCURRENTLY\b", re.MULTILINE)
_COMPATIBLE_SINCE = re.compile(r"-- compatible since (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def compatible_since(self) -> int | None:
        """Last migration of the oldest version that still works; None if no older one does."""
        match = _COMPATIBLE_SINCE.match(self.sql)
        return None if match is None else int(match[1])

    @property
    def outside_transaction(self) -> bool:
        return _OUTSIDE in self.sql


@cache  # readiness calls it repeatedly
def list_migrations() -> tuple[Migration, ...]:
    """Migrations of this version, in order."""
    return read(resources.files("serve_app.queue.schema"))


def read(folder: Traversable) -> tuple[Migration, ...]:
    """Migrations in a folder, in order."""
    migrations = [
        Migration(int(name[1]), file.name, file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if (name := _FILE.fullmatch(file.name))
    ]
    return tuple(sorted(migrations, key=lambda migration: migration.number))


async def migrate(conninfo: str, migrations: Sequence[Migration] | None = None) -> None:
    """Apply the missing migrations.

    Raises ``Misconfigured`` if the database is too old or too new for this version, and
    ``DatabaseUnavailable`` if it does not answer.
    """
    needed = list_migrations() if migrations is None else migrations
    try:
        async with await psycopg.AsyncConnection.connect(
            conninfo, **settings(conninfo)
        ) as connection:
            if connection.info.server_version < OLDEST_SERVER:
                raise Misconfigured(
                    "Darkroom needs PostgreSQL 15 or later, and this server is "
                    f"{connection.info.server_version // 10_000}. Upgrade it, or use another one."
                )
            connection.prepare_threshold = None  # a migration has several statements
            ((encoding,),) = await (await connection.execute("SHOW server_encoding")).fetchall()
            if encoding != "UTF8":
                raise Misconfigured(
                    f"Darkroom needs a database with encoding UTF8, and this one's is {encoding}. "
                    "Create one: createdb --encoding UTF8 --template template0 darkroom"
                )
            await _lock(connection)
            await _apply(connection, needed)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error


async def check_applied(database: Database, migrations: Sequence[Migration] | None = None) -> None:
    """Raise ``Misconfigured`` if the tables do not fit this version.

    They may be too old, if an older backup was restored while it runs, or newer and not compatible,
    if an update is under way.
    """
    try:
        rows = await database.rows(APPLIED)
    except UndefinedTable:
        rows = []
    applied, needed = dict(rows), list_migrations() if migrations is None else migrations
    _refuse_newer(applied, needed)
    if any(migration.number not in applied for migration in needed):
        at = max(applied, default=0)
        raise Misconfigured(
            f"This database belongs to an older Darkroom: its tables are at {at}, and this version "
            f"needs them at {needed[-1].number}. Restart Darkroom to migrate them."
        )


async def _lock(connection: psycopg.AsyncConnection) -> None:
    """Wait until no other process migrates. Not by a statement that waits: an index that another
    process builds concurrently would wait for its end."""
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,))
        if await cursor.fetchone() == (True,):
            return
        await asyncio.sleep(POLL_S)


async def _apply(connection: psycopg.AsyncConnection, migrations: Sequence[Migration]) -> None:
    await connection.execute(LEDGER)
    cursor = await connection.execute(APPLIED)
    applied = dict(await cursor.fetchall())
    _refuse_newer(applied, migrations)
    for migration in migrations:
        if migration.number in applied:
            continue
        await _patiently(connection, migration)


async def _patiently(connection: psycopg.AsyncConnection, migration: Migration) -> None:
    """Apply a migration, again and again until it gets its locks at once."""
    reported = float("-inf")
    while True:
        try:
            await _apply_one(connection, migration)
        except psycopg.errors.LockNotAvailable:
            now = asyncio.get_running_loop().time()
            if now - reported >= REPORT_EVERY_S:
                reported = now
                log.warning(
                    "The migration %s waits for a backup or another long transaction to end; "
                    "Darkroom starts then. `darkroom queue` names the oldest one.",
                    migration.name,
                )
            await asyncio.sleep(random.uniform(*RETRY_S))  # noqa: S311
        else:
            return


async def _apply_one(connection: psycopg.AsyncConnection, migration: Migration) -> None:
    noted = (migration.number, migration.name, migration.compatible_since)
    if migration.outside_transaction:
        await _wait_for_locks(connection, 0)
        for (drop,) in await (await connection.execute(INVALID_INDEXES)).fetchall():
            await connection.execute(drop)
        for statement in migration.sql.split(_ANOTHER):
            # What works concurrently waits for all transactions before it, and blocks none.
            concurrent = _CONCURRENTLY.search(statement) is not None
            await _wait_for_locks(connection, 0 if concurrent else LOCK_TIMEOUT_MS)
            await connection.execute(cast("LiteralString", statement))
        await connection.execute(NOTE, noted)
        return
    await _wait_for_locks(connection, LOCK_TIMEOUT_MS)
    async with connection.transaction():
        await connection.execute(cast("LiteralString", migration.sql))
        await connection.execute(NOTE, noted)


async def _wait_for_locks(connection: psycopg.AsyncConnection, most_ms: int) -> None:
    """Let the next statements wait for a lock ``most_ms`` milliseconds at most; 0: without end."""
    await connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{most_ms}ms",))


def _refuse_newer(applied: Mapping[int, int | None], migrations: Sequence[Migration]) -> None:
    """Raise ``Misconfigured`` unless all newer migrations are compatible with this version."""
    known, newest = migrations[-1].number, max(applied, default=0)
    newer = [since for number, since in applied.items() if number > known]
    if any(since is None or since > known for since in newer):
        raise Misconfigured(
            f"This database belongs to a newer Darkroom: its tables are at {newest}, and this "
            f"version supports them up to {known}. Install the newer version."
        )
