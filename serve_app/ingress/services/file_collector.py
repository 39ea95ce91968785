"""Deletion of files in storage that the database lists as unneeded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Storage
from serve_app.domain.upload import UploadBook
from serve_app.jobs.jobs import Job, JobHandler, JobKind, Retry
from serve_app.periodic_task import PeriodicTask
from serve_app.storage.keys import by_location
from serve_app.telemetry.queue_metrics import QueueMeter

COLLECT_INTERVAL_S = 10.0
BATCH_SIZE = 100
AGAIN_S = 300.0
"""When a file is looked at again that is still needed, or that storage did not delete."""


class NeededFiles(Protocol):
    async def needed_keys(self, keys: Sequence[str]) -> frozenset[str]:
        """Keys that must not be deleted yet."""
        ...


class FileDeletion(JobHandler):
    """Handler of jobs whose key is a file to delete. It is tried until storage does it."""

    kind = JobKind("file", first_wait_s=AGAIN_S, max_wait_s=AGAIN_S, batch=BATCH_SIZE)

    def __init__(self, files: NeededFiles, storage: Storage) -> None:
        self._files = files
        self._storage = storage

    async def run(self, jobs: Sequence[Job]) -> Sequence[Retry]:
        by_key = {job.key: job for job in jobs}
        needed = await self._files.needed_keys([*by_key])
        retries = [Retry([by_key[key] for key in needed], AGAIN_S, counts=False)] if needed else []
        for group in by_location(by_key.keys() - needed):
            # Files of a location that is away must not keep those of the others.
            try:
                await self._storage.delete(group)
            except DarkroomError as error:
                retries.append(Retry([by_key[key] for key in group], error=error.message))
        return retries


class FileCollector:
    """Deletes uploads periodically. Several ingress processes may do it at the same time.

    While storage is not available, the uploads stay listed and are deleted later.
    """

    def __init__(
        self,
        uploads: UploadBook,
        storage: Storage,
        expire: Callable[[], Awaitable[bool | None]] | None = None,
        metrics: QueueMeter | None = None,
    ) -> None:
        """``expire``: called before each round, because it may turn more files into garbage."""
        self._uploads = uploads
        self._storage = storage
        # A step of its own: while it fails, abandoned uploads are deleted nevertheless.
        work: dict[str, Callable[[], Awaitable[bool | None]]] = {
            "age_uploads": self.age_uploads,
            "delete_uploads": self.delete_garbage_uploads,
        }
        if expire is not None:
            work = {"expire_files": expire, **work}
        self._rounds = PeriodicTask(COLLECT_INTERVAL_S, work, metrics)

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        await self._rounds.aclose()

    async def age_uploads(self) -> None:
        """Mark the uploads whose age exceeds their tenant's retention, so that they are deleted."""
        await self._uploads.mark_aged()

    async def delete_garbage_uploads(self) -> None:
        """Delete uploads that were abandoned, aborted, or marked as kept long enough."""
        while uploads := await self._uploads.take_unwanted(BATCH_SIZE):
            parts = {
                upload.key: upload.parts_id for upload in uploads if upload.parts_id is not None
            }
            failed: DarkroomError | None = None
            for group in by_location(upload.key for upload in uploads):
                try:
                    for key in group:
                        if key in parts:
                            await self._storage.drop_parts(key, parts[key])
                    await self._storage.delete(group)
                except DarkroomError as error:
                    failed = error
                else:
                    await self._uploads.forget(group)
            if failed is not None:
                raise failed
