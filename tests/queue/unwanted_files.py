"""Files that are due for deletion, in tests of the queue."""

from __future__ import annotations

from serve_app.domain.ports import Storage
from serve_app.ingress.services.file_collector import FileDeletion
from serve_app.jobs.postgres import PostgresJobs
from serve_app.jobs.worker import JobWorker
from serve_app.postgres.database import Database
from serve_app.queue.transactions.unwanted_files import UnwantedFiles


async def take_files(database: Database) -> list[str]:
    """Take the files that are due, and return those that nothing needs."""
    jobs = await PostgresJobs(database).take(FileDeletion.kind, 100)
    keys = [job.key for job in jobs]
    needed = await UnwantedFiles(database).needed_keys(keys)
    return [key for key in keys if key not in needed]


async def delete_files(database: Database, storage: Storage) -> None:
    """Delete the files that are due."""
    deletion = FileDeletion(UnwantedFiles(database), storage)
    await JobWorker(PostgresJobs(database), [deletion]).run_due()
