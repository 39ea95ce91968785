"""``darkroom backup``: the database and its files, consistent, while Darkroom runs.

The database is dumped first, from a snapshot. The files that the rows of this snapshot name are
copied afterwards: objects never change, so each is there unless it was deleted since. Files of
requests that ended later are not in the backup, and neither are their rows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import psycopg
from psycopg import IsolationLevel

from serve_app.backup import postgres_programs
from serve_app.backup.folder import (
    FORMAT,
    BackupFolder,
    FileEntry,
    Manifest,
    OnCopied,
    digest_of,
    explain_errors,
    ignore_copied,
)
from serve_app.backup.installation import OpenInstallation, open_connection
from serve_app.backup.postgres_programs import Program
from serve_app.backup.rows import NamedFile, NamedFiles, find_named, named_files
from serve_app.domain.errors import ArtifactNotFound, DatabaseUnavailable
from serve_app.postgres.installation import record_backup
from serve_app.queue.store.migrations import check_applied
from serve_app.storage.keys import DamagedFile
from serve_app.telemetry.version import package_version

log = logging.getLogger(__name__)

CONCURRENT = 8  # files copied at the same time, one chunk of each in memory
READS = 2  # of a file that storage finds damaged


async def back_up(
    target: OpenInstallation, folder: BackupFolder, on_copied: OnCopied = ignore_copied
) -> Manifest:
    """Write a backup of ``target`` to ``folder``. Without its manifest it is incomplete.

    ``on_copied`` is called with the number of files that were copied, and of their bytes.
    """
    await check_applied(target.database)
    try:
        with explain_errors("The backup cannot be written to", folder.path):
            async with open_connection(target.conninfo, autocommit=False) as connection:
                manifest = await _back_up(target, folder, connection, on_copied)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"PostgreSQL was lost during the backup: {str(error).strip()}. Delete {folder.path}, "
            "which is incomplete, and run the command again when the server runs."
        ) from error
    try:
        await record_backup(target.database, manifest.created_at)
    except DatabaseUnavailable as error:
        log.warning(
            "The backup is complete, but the database did not record it: %s The metric of the last "
            "backup shows an earlier one.",
            error,
        )
    return manifest


async def _back_up(
    target: OpenInstallation,
    folder: BackupFolder,
    connection: psycopg.AsyncConnection,
    on_copied: OnCopied,
) -> Manifest:
    major = connection.info.server_version // 10_000
    program = postgres_programs.find_program("pg_dump", major, tls=connection.pgconn.ssl_in_use)
    folder.create()
    await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    # The server would end a transaction that waits for pg_dump.
    await connection.execute("SET idle_in_transaction_session_timeout = 0")
    await connection.commit()
    async with named_files(connection) as named:
        created_at, level = await _dump(target, folder, connection, program)
        # From here on no snapshot is held: one slows down the queue the longer it lasts.
        await connection.commit()
        await connection.set_autocommit(True)
        copies = await _copy_all(target, folder, named, on_copied)
    await asyncio.to_thread(_copy_secrets, target.data_dir, folder.secrets)
    manifest = Manifest(
        format=FORMAT,
        version=package_version(),
        schema_level=level,
        created_at=created_at,
        postgres=major,
        pg_dump=program.major,
        database_bytes=folder.database.stat().st_size,
        database_sha256=await asyncio.to_thread(digest_of, folder.database),
        list_sha256=await asyncio.to_thread(digest_of, folder.list),
        **asdict(copies),
    )
    folder.write_manifest(manifest)
    return manifest


async def _dump(
    target: OpenInstallation,
    folder: BackupFolder,
    connection: psycopg.AsyncConnection,
    program: Program,
) -> tuple[str, int]:
    """Dump the snapshot of the connection's transaction. Returns its time and schema level."""
    cursor = await connection.execute(
        "SELECT pg_export_snapshot(), to_json(now())#>>'{}', max(number) FROM migrations"
    )
    ((snapshot, created_at, level),) = await cursor.fetchall()
    await postgres_programs.dump(program, target.conninfo, snapshot, folder.database)
    return created_at, level


@dataclass(slots=True)
class CopyCounts:
    """Totals of the copied files; see ``Manifest``."""

    files: int = 0
    files_bytes: int = 0
    deleted: int = 0
    missing: int = 0
    damaged: int = 0


async def _copy_all(
    target: OpenInstallation, folder: BackupFolder, named: NamedFiles, on_copied: OnCopied
) -> CopyCounts:
    counts = CopyCounts()
    with await asyncio.to_thread(_create, folder.list) as lines:
        while batch := await named.batch(CONCURRENT):
            copied = await asyncio.gather(*(_copy(target, folder, row) for row in batch))
            await _count(target, counts, batch, copied)
            on_copied(counts.files, counts.files_bytes)
            entries = (copy.entry for copy in copied)
            lines.writelines(f"{json.dumps(asdict(entry))}\n".encode() for entry in entries)
        await asyncio.to_thread(_flush, lines)
    return counts


@dataclass(frozen=True, slots=True)
class Copied:
    """Entry of a file. ``damaged``: storage has found that its bytes are not those stored."""

    entry: FileEntry
    damaged: bool = False


async def _copy(target: OpenInstallation, folder: BackupFolder, file: NamedFile) -> Copied:
    """Copy one file. The entry has no digest if storage does not have the file as it was stored."""
    for _ in range(READS):
        try:
            return Copied(await _copy_once(target, folder.files / file.key, file.key))
        except ArtifactNotFound:
            return Copied(FileEntry(file.key))
        except DamagedFile:
            continue  # perhaps only on its way
    return Copied(FileEntry(file.key), damaged=True)


async def _copy_once(target: OpenInstallation, path: Path, key: str) -> FileEntry:
    digest = hashlib.sha256()
    try:
        size = await target.storage.size(key)
        file = await asyncio.to_thread(_create, path)
        try:
            async for chunk in target.storage.read(key, 0, size):
                await asyncio.to_thread(_add, file, digest, chunk)
            await asyncio.to_thread(_flush, file)
        finally:
            await asyncio.to_thread(file.close)
    except (ArtifactNotFound, DamagedFile):
        await asyncio.to_thread(path.unlink, missing_ok=True)
        raise
    return FileEntry(key, size, digest.hexdigest())


async def _count(
    target: OpenInstallation,
    counts: CopyCounts,
    files: Sequence[NamedFile],
    copied: Sequence[Copied],
) -> None:
    absent = [
        copied_file.entry.key
        for copied_file in copied
        if copied_file.entry.sha256 is None and not copied_file.damaged
    ]
    named = await find_named(target.database, absent) if absent else frozenset[str]()
    counts.missing += len(named)
    counts.deleted += len(absent) - len(named)
    for row, copy in zip(files, copied, strict=True):
        counts.damaged += copy.damaged
        if copy.entry.sha256 is None:
            continue
        counts.files += 1
        counts.files_bytes += copy.entry.size
        counts.damaged += row.sha256 not in (None, copy.entry.sha256)


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)  # below a folder that only its owner opens
    return open(path, "xb", opener=_private)


def _add(file: BinaryIO, digest: hashlib._Hash, chunk: bytes) -> None:
    file.write(chunk)
    digest.update(chunk)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _copy_secrets(data_dir: Path, secrets: Path) -> None:
    """Copy the first API key and the certificates, if this data directory has them."""
    secrets.mkdir(mode=0o700)
    if (data_dir / "api_key").exists():
        shutil.copyfile(data_dir / "api_key", secrets / "api_key")
    if (data_dir / "tls").is_dir():
        shutil.copytree(data_dir / "tls", secrets / "tls")
    for path in secrets.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
