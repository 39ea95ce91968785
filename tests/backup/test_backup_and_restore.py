"""A backup of a running installation, and what an installation restored from it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from serve_app.backup import postgres_programs
from serve_app.backup.backup import back_up
from serve_app.backup.folder import BackupFolder
from serve_app.backup.fsck import Check
from serve_app.backup.installation import OpenInstallation
from serve_app.backup.restore import restore
from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import Misconfigured
from serve_app.domain.lease import Verdict
from serve_app.domain.request import State
from serve_app.postgres.installation import last_backup
from serve_app.queue.queue import PostgresQueue
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.keys import DamagedFile
from serve_app.telemetry.clock import SystemClock
from tests.backup.conftest import every_storage, finish, get, put
from tests.queue.connections import LastingConnection
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, lease, make_finish, new


@pytest.fixture
def folder(tmp_path: Path) -> BackupFolder:
    return BackupFolder(tmp_path / "backup")


@contextlib.asynccontextmanager
async def busy(queue: PostgresQueue, target: OpenInstallation) -> AsyncIterator[list[Artifact]]:
    """Submit and finish requests, each with a file, while the block runs."""
    artifacts: list[Artifact] = []

    async def work() -> None:
        while True:
            await queue.submit(new())
            artifacts.append(await finish(queue, target, await lease(queue)))

    task = asyncio.create_task(work())
    while len(artifacts) < 5:
        await asyncio.sleep(0.05)
        assert not task.done(), task
    try:
        yield artifacts
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def problems(target: OpenInstallation) -> list[tuple[str, str]]:
    check = Check(target, SystemClock(), grace_s=0)
    return [(finding.problem, finding.key) async for finding in check.findings()]


@pytest.mark.variants(1)
@every_storage
async def test_a_backup_of_a_busy_installation_has_the_file_of_every_row(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder, ingress: Ingress
) -> None:
    queue = await ingress()
    async with busy(queue, source) as artifacts:
        before = list(artifacts)
        manifest = await back_up(source, folder)
    assert manifest.files >= len(before)
    assert (manifest.missing, manifest.deleted, manifest.damaged) == (0, 0, 0)
    await restore(fresh, folder)
    assert await problems(fresh) == []
    rows = await fresh.database.rows("SELECT key FROM artifacts")
    assert {file.key for file in before} <= {key for (key,) in rows}
    for artifact in before:
        assert await get(fresh, artifact.key) == await get(source, artifact.key)
    succeeded = await fresh.database.rows(
        "SELECT count(*) FROM requests r WHERE state = 'succeeded' "
        "AND NOT EXISTS (SELECT FROM artifacts a WHERE a.request_id = r.id)"
    )
    assert succeeded == [(0,)]


async def test_a_running_installation_knows_when_it_was_backed_up_last(
    source: OpenInstallation, folder: BackupFolder
) -> None:
    assert await last_backup(source.database) == 0.0
    manifest = await back_up(source, folder)
    at = datetime.fromisoformat(manifest.created_at).timestamp()
    assert await last_backup(source.database) == pytest.approx(at)


async def test_a_backup_that_fails_is_not_the_last_one(
    source: OpenInstallation, folder: BackupFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> None:
        raise Misconfigured("pg_dump ended with status 1.")

    monkeypatch.setattr(postgres_programs, "dump", fail)
    with pytest.raises(Misconfigured):
        await back_up(source, folder)
    assert await last_backup(source.database) == 0.0


async def test_a_lease_from_before_the_backup_is_fenced_and_its_request_runs_again(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder, ingress: Ingress
) -> None:
    queue = await ingress()
    request = await queue.submit(new())
    old = await lease(queue)
    await back_up(source, folder)
    restored = await restore(fresh, folder)
    assert restored.requeued == 1
    attempts = await fresh.database.rows("SELECT ended, message FROM attempts")
    assert attempts == [("lost", "Restored from a backup that was made while it ran on replica r1")]
    ingress.conninfo = fresh.conninfo
    again = await ingress()
    requeued = await again.get(TENANT, request.id)
    assert (requeued.state, requeued.failures) == (State.QUEUED, 0)
    assert await again.finish(make_finish(old.key)) is Verdict.FENCED
    newer = await lease(again)
    assert newer.key.request_id == request.id
    assert await again.finish(make_finish(old.key)) is Verdict.FENCED
    assert await again.finish(make_finish(newer.key)) is Verdict.ACCEPTED


@pytest.mark.long
@every_storage
async def test_a_file_that_is_deleted_while_the_backup_runs_is_reported(
    source: OpenInstallation,
    fresh: OpenInstallation,
    folder: BackupFolder,
    ingress: Ingress,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = await ingress()
    request = await queue.submit(new())
    await finish(queue, source, await lease(queue))
    dump = postgres_programs.dump

    async def dump_then_delete(*arguments: Any) -> None:
        await dump(*arguments)
        await source.storage.delete(await queue.delete(TENANT, request.id))

    monkeypatch.setattr(postgres_programs, "dump", dump_then_delete)
    manifest = await back_up(source, folder)
    assert (manifest.files, manifest.deleted, manifest.missing) == (0, 1, 0)
    assert (await restore(fresh, folder)).absent == 1
    assert await problems(fresh) == []


@pytest.mark.long
@every_storage
async def test_a_file_that_was_lost_before_the_backup_is_named_by_no_row_after_a_restore(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder, ingress: Ingress
) -> None:
    queue = await ingress()
    await queue.submit(new())
    kept = await finish(queue, source, await lease(queue))
    await queue.submit(new())
    gone = await finish(queue, source, await lease(queue))
    await source.storage.delete([gone.key])
    manifest = await back_up(source, folder)
    assert (manifest.files, manifest.missing) == (1, 1)
    assert (await restore(fresh, folder)).absent == 1
    assert await fresh.database.rows("SELECT key FROM artifacts") == [(kept.key,)]
    assert await problems(fresh) == []


class DamagedStorage(DirectoryStorage):
    """Storage that finds some of its files damaged when it reads them, as those in buckets are."""

    def __init__(self, root: Path, *damaged: str) -> None:
        super().__init__(root, b"", "", SystemClock())
        self._damaged = damaged

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        async for chunk in super().read(key, start, end):
            yield chunk[:-1] if key in self._damaged else chunk
        if key in self._damaged:
            raise DamagedFile("It answered with something else than was stored.")


@pytest.mark.long
async def test_a_file_that_is_damaged_in_storage_is_left_out_of_a_backup_and_reported(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder, ingress: Ingress
) -> None:
    queue = await ingress()
    await queue.submit(new())
    kept = await finish(queue, source, await lease(queue))
    await queue.submit(new())
    bad = await finish(queue, source, await lease(queue))
    storage = DamagedStorage(source.data_dir / "artifacts", bad.key)
    manifest = await back_up(replace(source, storage=storage), folder)
    assert (manifest.files, manifest.missing, manifest.damaged) == (1, 0, 1)
    assert not (folder.files / bad.key).exists()
    assert (await restore(fresh, folder)).absent == 1
    assert await fresh.database.rows("SELECT key FROM artifacts") == [(kept.key,)]
    assert await problems(fresh) == []


async def test_only_the_owner_can_read_a_backup(
    source: OpenInstallation, folder: BackupFolder
) -> None:
    await put(source, "u/0123/a.png", b"content")
    await source.database.rows(
        "INSERT INTO uploads (key, id, tenant, media_type, state, size) "
        "VALUES ('u/0123/a.png', 'x', 'ann', 'image/png', 'whole', 7)"
    )
    (source.data_dir / "api_key").write_text("id:secret")
    await back_up(source, folder)
    for path in (folder.path, folder.files, folder.secrets):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for path in folder.path.rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert (folder.files / "u/0123/a.png").read_bytes() == b"content"


async def test_a_restore_brings_back_the_first_key(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder
) -> None:
    (source.data_dir / "api_key").write_text("id:secret")
    (source.data_dir / "tls").mkdir()
    (source.data_dir / "tls" / "ca.key").write_text("key")
    await back_up(source, folder)
    await restore(fresh, folder)
    key = fresh.data_dir / "api_key"
    assert (key.read_text(), stat.S_IMODE(key.stat().st_mode)) == ("id:secret", 0o600)
    assert (fresh.data_dir / "tls" / "ca.key").read_text() == "key"


async def test_a_restore_replaces_an_installation_only_if_told(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder, ingress: Ingress
) -> None:
    await back_up(source, folder)
    await restore(fresh, folder)
    with pytest.raises(Misconfigured, match=r"not empty.*--replace"):
        await restore(fresh, folder)
    await fresh.database.start()
    await fresh.database.rows("INSERT INTO tenants (id) VALUES ('stranger')")
    await restore(fresh, folder, replace=True)
    assert await fresh.database.rows("SELECT id FROM tenants WHERE id = 'stranger'") == []


@pytest.mark.long
@every_storage
async def test_a_restore_replaces_a_file_that_was_damaged_in_storage(
    source: OpenInstallation, folder: BackupFolder, ingress: Ingress
) -> None:
    queue = await ingress()
    await queue.submit(new())
    artifact = await finish(queue, source, await lease(queue))
    whole = await get(source, artifact.key)
    await back_up(source, folder)
    await ingress.aclose()  # Darkroom is stopped
    LastingConnection.end_free()
    await source.storage.delete([artifact.key])
    await put(source, artifact.key, b"other bytes")
    await restore(source, folder, replace=True)
    assert await get(source, artifact.key) == whole


async def test_a_restore_is_refused_while_another_program_uses_the_database(
    source: OpenInstallation,
    fresh: OpenInstallation,
    folder: BackupFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await back_up(source, folder)
    monkeypatch.setattr("serve_app.backup.restore.CLOSING_TRIES", 5)  # this one never closes
    async with await psycopg.AsyncConnection.connect(fresh.conninfo):
        with pytest.raises(Misconfigured, match=r"\d connections.*Stop Darkroom"):
            await restore(fresh, folder)


async def test_a_damaged_backup_is_refused_before_anything_is_stored(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder
) -> None:
    await back_up(source, folder)
    with folder.database.open("ab") as dump:
        dump.write(b"more")
    with pytest.raises(Misconfigured, match=r"database\.dump is missing or damaged"):
        await restore(fresh, folder)
    assert await fresh.database.rows("SELECT count(*) FROM pg_tables WHERE tablename='requests'")


@pytest.mark.long
@every_storage
async def test_a_changed_file_of_a_backup_is_not_stored(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder, ingress: Ingress
) -> None:
    queue = await ingress()
    await queue.submit(new())
    artifact = await finish(queue, source, await lease(queue))
    await back_up(source, folder)
    (folder.files / artifact.key).write_bytes(b"changed")
    with pytest.raises(Misconfigured, match="missing or damaged"):
        await restore(fresh, folder)
    assert [file async for file in fresh.storage.files()] == []


async def test_a_folder_without_a_manifest_is_no_backup(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder
) -> None:
    await back_up(source, folder)
    folder.manifest.unlink()
    with pytest.raises(Misconfigured, match="is not a backup"):
        await restore(fresh, folder)


@pytest.mark.parametrize("field", ["format", "schema_level"])
async def test_a_backup_of_a_newer_version_is_refused(
    source: OpenInstallation, fresh: OpenInstallation, folder: BackupFolder, field: str
) -> None:
    await back_up(source, folder)
    stored = json.loads(folder.manifest.read_text()) | {field: 9999}
    folder.manifest.write_text(json.dumps(stored))
    with pytest.raises(Misconfigured, match="newer Darkroom"):
        await restore(fresh, folder)


async def test_a_backup_never_changes_another_one(
    source: OpenInstallation, folder: BackupFolder
) -> None:
    await back_up(source, folder)
    written = folder.manifest.read_bytes()
    with pytest.raises(Misconfigured, match="not empty"):
        await back_up(source, folder)
    assert folder.manifest.read_bytes() == written
