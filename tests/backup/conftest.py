"""An installation to back up, with its files in a directory or in a bucket, and an empty one."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from serve_app.backup.installation import OpenInstallation
from serve_app.domain.artifact import Artifact
from serve_app.domain.lease import Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.keys import artifact_key
from serve_app.storage.s3.storage import S3Storage
from serve_app.telemetry.clock import SystemClock
from tests.queue.database import (
    empty,
    empty_tables,
    end_emptying,
    ingress,
    liveness,
    server,
    terms,
)
from tests.queue.requests import make_finish
from tests.storage.conftest import moto_server
from tests.storage.s3_servers import S3Server

__all__ = [
    "conninfo",
    "empty",
    "ingress",
    "liveness",
    "moto_server",
    "server",
    "terms",
]


@pytest.fixture
def conninfo(server: str) -> str:
    """As that of other folders, without a connection that stays: a restore refuses a database that
    others use."""
    empty_tables(server)
    end_emptying(server)
    return server


class Installations:
    """Makes targets whose storages are all of one kind, each of them empty."""

    def __init__(self, folder: Path, bucket_server: S3Server | None) -> None:
        self._folder = folder
        self._server = bucket_server
        self._stack = AsyncExitStack()

    async def make(self, name: str, conninfo: str) -> OpenInstallation:
        data_dir = self._folder / name
        data_dir.mkdir()
        database = Database(conninfo, connections=2)
        await database.start()
        self._stack.push_async_callback(database.aclose)
        storage: DirectoryStorage | S3Storage
        if self._server is None:
            storage = DirectoryStorage(data_dir / "artifacts", b"", "", SystemClock())
        else:
            location = self._server.new_bucket(conditional_writes=self._server.strict is not None)
            storage = await self._stack.enter_async_context(self._server.storage(location))
        return OpenInstallation(data_dir, database, storage)

    async def aclose(self) -> None:
        await self._stack.aclose()


every_storage = pytest.mark.parametrize("installations", ["directory", "moto"], indirect=True)
"""For what reads, lists, or deletes files; the rest is about the database and the backup's folder,
and is the same with every storage. That servers of S3 do the same is said by
tests/contract/test_storage_contract.py."""


@pytest.fixture
async def installations(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Installations]:
    kind = getattr(request, "param", "directory")
    server = None if kind == "directory" else request.getfixturevalue(f"{kind}_server")
    factory = Installations(tmp_path, server)
    yield factory
    await factory.aclose()


@pytest.fixture
async def source(installations: Installations, conninfo: str) -> OpenInstallation:
    return await installations.make("source", conninfo)


@pytest.fixture
async def fresh(installations: Installations, empty: str) -> OpenInstallation:
    """Nothing was ever stored here."""
    return await installations.make("fresh", empty)


async def put(target: OpenInstallation, key: str, content: bytes) -> Artifact:
    async def once() -> AsyncIterator[bytes]:
        yield content

    await target.storage.put(key, "image/png", once())
    return Artifact(key, "image/png", len(content), hashlib.sha256(content).hexdigest())


async def get(target: OpenInstallation, key: str) -> bytes:
    size = await target.storage.size(key)
    return b"".join([chunk async for chunk in target.storage.read(key, 0, size)])


async def finish(queue: PostgresQueue, target: OpenInstallation, lease: Lease) -> Artifact:
    """Store one file and finish the attempt with it."""
    key = artifact_key(lease.key.request_id, lease.key.attempt, "image/png")
    artifact = await put(target, key, f"an image of {lease.key}".encode() * 1000)
    outcome = Outcome(output={"n": 1}, artifacts=(artifact,), usage=Usage(1.5, 4, 1.0))
    await queue.finish(make_finish(lease.key, outcome))
    return artifact
