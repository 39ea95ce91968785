"""``darkroom restore``: a backup becomes an installation.

Files first, then the database in one transaction: an interrupted restore leaves no database, and
can be repeated. Afterwards the leases that the dump has as running are ended, so no write of an
attempt from before the backup is accepted, and the requests run again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg import sql

from serve_app.backup import postgres_programs, rows
from serve_app.backup.folder import (
    BackupFolder,
    FileEntry,
    Manifest,
    OnCopied,
    damaged_backup_error,
    explain_errors,
    ignore_copied,
)
from serve_app.backup.installation import OpenInstallation, open_connection
from serve_app.domain.errors import DatabaseUnavailable, Forbidden, Misconfigured
from serve_app.postgres.file_places import record_places
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import list_migrations, migrate
from serve_app.queue.transactions.end_attempt import EndAttempts
from serve_app.storage.blocking import CHUNK_BYTES
from serve_app.storage.keys import DamagedFile, media_type_of

CONCURRENT = 8  # files copied at the same time, one chunk of each in memory
CLOSING_TRIES, CLOSING_POLL_S = 100, 0.1  # connections that were just closed
T = TypeVar("T")
_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^CREATE (?:OR REPLACE )?FUNCTION (\w+)", re.MULTILINE)

PRESENT = """
SELECT c.relname FROM pg_class c
WHERE c.relname = ANY(%s) AND c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
"""
# All connections of one role are visible to it.
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
  AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has done."""

    manifest: Manifest
    requeued: int  # requests that ran when the backup was made
    absent: int  # files that the backup does not have; no row names them any more


async def restore(
    target: OpenInstallation,
    folder: BackupFolder,
    on_copied: OnCopied = ignore_copied,
    *,
    replace: bool = False,
) -> Restored:
    """Restore ``folder`` into ``target``. ``replace``: delete what its database has. ``on_copied``
    is called with the number of files that were copied, and of their bytes.

    Raises ``Misconfigured`` if the target is in use or not empty, or the backup is unusable.
    """
    manifest = folder.read_manifest()
    _refuse_newer(folder, manifest)
    await asyncio.to_thread(folder.verify, manifest)
    await target.database.aclose()  # its connections would count as those of another program
    try:
        async with open_connection(target.conninfo) as connection:
            tables = await _check_target(connection, manifest, replace=replace)
            with explain_errors("The backup cannot be read from", folder.path):
                absent = await _restore_files(target, folder, on_copied)
            await _restore_database(connection, target.conninfo, folder, manifest, tables)
        await migrate(target.conninfo)
        await target.database.start()
        await record_places(target.database, target.places)  # the dump has those of the backup
        for some in _batches(iter(absent), rows.AT_ONCE):
            await rows.disown(target.database, some)
        requeued = await _end_leases(target)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"PostgreSQL was lost during the restore: {str(error).strip()}. Run the command again "
            "with --replace when the server runs."
        ) from error
    with explain_errors("The secrets cannot be written to", target.data_dir):
        await asyncio.to_thread(_restore_secrets, folder, target.data_dir)
    return Restored(manifest, requeued, len(absent))


def _refuse_newer(folder: BackupFolder, manifest: Manifest) -> None:
    known = list_migrations()[-1].number
    if manifest.schema_level > known:
        raise Misconfigured(
            f"{folder.path} was written by a newer Darkroom ({manifest.version}): its tables are "
            f"at {manifest.schema_level}, and this version supports them up to {known}. Install "
            "the newer version, then restore."
        )


async def _check_target(
    connection: psycopg.AsyncConnection, manifest: Manifest, *, replace: bool
) -> Sequence[str]:
    """Check that the backup may be restored here. Returns the tables that are there."""
    major = connection.info.server_version // 10_000
    if major < manifest.postgres:
        raise Misconfigured(
            f"The backup was made from PostgreSQL {manifest.postgres}, and this server is {major}. "
            f"Restore into PostgreSQL {manifest.postgres} or later."
        )
    await _refuse_others(connection)
    names = sorted(
        {name for migration in list_migrations() for name in _TABLE.findall(migration.sql)}
    )
    cursor = await connection.execute(PRESENT, ([*names, "migrations"],))
    tables = [name for (name,) in await cursor.fetchall()]
    if tables and not replace:
        raise Misconfigured(
            "This installation is not empty: its database has tables. Restore into a new data "
            "directory or an empty database, or add --replace to delete all that this one has."
        )
    return tables


async def _refuse_others(connection: psycopg.AsyncConnection) -> None:
    """Raise ``Misconfigured`` if other connections stay: Darkroom may run."""
    others = 0
    for _ in range(CLOSING_TRIES):
        ((others,),) = await (await connection.execute(OTHERS)).fetchall()
        if not others:
            return
        await asyncio.sleep(CLOSING_POLL_S)
    raise Misconfigured(
        f"Other programs have {others} connections to the database. Stop Darkroom on every "
        "machine and close other clients, then run the command again."
    )


async def _restore_files(
    target: OpenInstallation, folder: BackupFolder, on_copied: OnCopied
) -> Sequence[str]:
    """Copy all files to storage. Returns the keys of those that the backup does not have."""
    absent: list[str] = []
    files = size = 0
    for batch in _batches(folder.entries(), CONCURRENT):
        absent += [entry.key for entry in batch if entry.sha256 is None]
        here = [entry for entry in batch if entry.sha256 is not None]
        await asyncio.gather(*(_put(target, folder, entry) for entry in here))
        files += len(here)
        size += sum(entry.size for entry in here)
        on_copied(files, size)
    return absent


async def _put(target: OpenInstallation, folder: BackupFolder, entry: FileEntry) -> None:
    """Store one file. Replaces one of its key that has other bytes."""
    path = await asyncio.to_thread(folder.file, entry.key)
    media_type = media_type_of(entry.key)
    try:
        await target.storage.put(entry.key, media_type, _read_and_verify(path, entry))
    except (Forbidden, DamagedFile):
        # No two files ever have one key, so the one in storage is damaged.
        await target.storage.delete([entry.key])
        await target.storage.put(entry.key, media_type, _read_and_verify(path, entry))


async def _read_and_verify(path: Path, entry: FileEntry) -> AsyncIterator[bytes]:
    """Chunks of a file of the backup. Raises ``Misconfigured`` at its end if it has changed, so
    that it is not stored."""
    digest = hashlib.sha256()
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            await asyncio.to_thread(digest.update, chunk)
            yield chunk
    finally:
        file.close()
    if digest.hexdigest() != entry.sha256:
        raise damaged_backup_error(path)


async def _restore_database(
    connection: psycopg.AsyncConnection,
    conninfo: str,
    folder: BackupFolder,
    manifest: Manifest,
    replaced: Sequence[str],
) -> None:
    major = max(manifest.pg_dump, connection.info.server_version // 10_000)
    tls = connection.pgconn.ssl_in_use
    program = postgres_programs.find_program("pg_restore", major, tls=tls)
    if replaced:
        tables = sql.SQL(", ").join(map(sql.Identifier, replaced))
        await connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(tables))
    functions = sorted(
        {name for migration in list_migrations() for name in _FUNCTION.findall(migration.sql)}
    )
    for name in functions:
        await connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}").format(sql.Identifier(name)))
    await postgres_programs.load(program, conninfo, folder.database)
    await connection.execute("ANALYZE")


async def _end_leases(target: OpenInstallation) -> int:
    ended = 0
    attempts = EndAttempts(target.database, QueueLimits())
    while batch := await attempts.end_restored():
        ended += len(batch)
    return ended


def _restore_secrets(folder: BackupFolder, data_dir: Path) -> None:
    """Bring back the first API key and the certificates, readable by their owner only."""
    for path in folder.secret_files():
        to = data_dir / path.relative_to(folder.secrets)
        to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.{os.getpid()}")
        shutil.copyfile(path, part)
        part.chmod(0o600)
        part.replace(to)


def _batches(entries: Iterator[T], most: int) -> Iterator[list[T]]:
    while batch := list(islice(entries, most)):
        yield batch
