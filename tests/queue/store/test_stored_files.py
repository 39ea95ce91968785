"""Sums of stored files that other tables than those of requests have, and their age."""

from __future__ import annotations

from datetime import UTC, datetime

from serve_app.domain.artifact import StoredSum
from serve_app.domain.upload import Upload
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.store.config import Retention
from serve_app.queue.store.stored_files import FRESH_S, PostgresStoredFiles
from serve_app.queue.transactions.uploads import PostgresUploads
from tests.fakes.clock import FakeClock

WEIGHTS = """
INSERT INTO weight_files (digest, key, size, stored)
VALUES ('a', 'w/a', 70, true), ('b', 'w/b', 90, false)
"""
UNWANTED = """
INSERT INTO jobs (kind, key, due_at)
VALUES ('file', 'r/1', now() - interval '1 minute'), ('file', 'r/2', now() + interval '1 day')
"""


def make_stored_files(database: Database, clock: FakeClock) -> PostgresStoredFiles:
    return PostgresStoredFiles(FairReads(database), clock)


async def test_uploads_weights_and_what_will_be_deleted_are_counted(database: Database) -> None:
    uploads = PostgresUploads(database, Retention())
    for name in ("whole", "open"):
        await uploads.open(Upload(name, name, "ann", "image/png"))
    await uploads.finish("whole", 30)
    await database.rows(WEIGHTS)
    await database.rows(UNWANTED)
    use = await make_stored_files(database, FakeClock(datetime.now(UTC))).use()
    assert sorted(use.sums, key=lambda stored_sum: stored_sum.kind) == [
        StoredSum("ann", "upload", 1, 30),
        StoredSum("", "weights", 1, 70),
    ]
    assert (use.unwanted, use.overdue) == (2, 1)


async def test_the_sums_are_made_once_a_minute(database: Database) -> None:
    clock = FakeClock(datetime.now(UTC))
    files = make_stored_files(database, clock)
    first = await files.use()
    await database.rows(WEIGHTS)
    assert await files.use() == first
    clock.advance(FRESH_S)
    assert (await files.use()).sums == [StoredSum("", "weights", 1, 70)]
