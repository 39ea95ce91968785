"""Objects in storage that are no longer needed are found in the database and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from serve_app.domain.errors import StorageUnavailable
from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import StoredSnapshot
from serve_app.postgres.database import Database
from serve_app.queue.transactions import snapshots
from serve_app.telemetry.clock import SystemClock
from tests.fakes.storage import FakeStorage
from tests.queue.database import Ingress
from tests.queue.requests import lease, make_finish, new, report
from tests.queue.unwanted_files import delete_files, take_files


async def all_due(database: Database) -> None:
    await database.rows("UPDATE jobs SET due_at = now() WHERE kind = 'file'")


async def keys(database: Database) -> set[str]:
    return {key for (key,) in await database.rows("SELECT key FROM jobs WHERE kind = 'file'")}


async def keep(queue, lease_key: LeaseKey, step: int = 1) -> str:
    reply = await queue.report(replace(report(lease_key), wants_tickets=(lease_key,)))
    ((_, ticket),) = reply.snapshot_tickets
    kept = StoredSnapshot(ticket.key, step)
    await queue.report(replace(report(lease_key), snapshots=((lease_key, kept),)))
    return ticket.key


async def test_what_was_uploaded_and_never_named_is_deleted_after_its_ticket(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await queue.submit(new())
    lease_key = (await lease(queue)).key
    reply = await queue.report(replace(report(lease_key), wants_tickets=(lease_key,)))
    ((_, ticket),) = reply.snapshot_tickets
    assert await take_files(database) == []
    await all_due(database)
    assert await take_files(database) == [ticket.key]


async def test_a_snapshot_that_another_replaced_is_unwanted_and_the_latest_is_not(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await queue.submit(new())
    lease_key = (await lease(queue)).key
    first = await keep(queue, lease_key)
    second = await keep(queue, lease_key, 2)
    assert await keys(database) == {first}
    await queue.report(
        replace(report(lease_key), snapshots=((lease_key, StoredSnapshot(second, 2)),))
    )
    assert await keys(database) == {first}


async def test_snapshots_of_requests_that_ended_are_unwanted(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    ended, goes_on = new(), new()
    for request in (ended, goes_on):
        await queue.submit(request)
    leases = [await lease(queue), await lease(queue)]
    kept = {granted.request_id: await keep(queue, granted.key) for granted in leases}
    await queue.finish(
        make_finish(next(granted.key for granted in leases if granted.request_id == ended.id))
    )
    await snapshots.forget_ended(database)
    await snapshots.forget_ended(database)
    assert await keys(database) == {kept[ended.id]}
    left = await database.rows("SELECT id::text FROM requests WHERE snapshot IS NOT NULL")
    assert left == [(goes_on.id,)]


async def test_a_file_that_storage_does_not_delete_is_tried_again(database: Database) -> None:
    storage = FakeStorage(b"key", "http://here", SystemClock())
    storage.delete = raise_unavailable  # type: ignore[method-assign]
    await snapshots.store_tickets(database, ["s/a/1/x.bin"])
    await all_due(database)
    await delete_files(database, storage)
    assert await take_files(database) == []
    assert await keys(database) == {"s/a/1/x.bin"}
    await all_due(database)
    assert await take_files(database) == ["s/a/1/x.bin"]


async def raise_unavailable(keys: Sequence[str]) -> None:
    raise StorageUnavailable("The storage does not answer.")


async def test_disposal_deletes_from_storage_what_is_due(database: Database) -> None:
    storage = FakeStorage(b"key", "http://here", SystemClock())
    for key in ("s/a/1/due.bin", "s/a/1/not-yet.bin"):
        await storage.put(key, "application/octet-stream", once(b"latents"))
    await snapshots.store_tickets(database, ["s/a/1/due.bin"])
    await all_due(database)
    await snapshots.store_tickets(database, ["s/a/1/not-yet.bin"])
    await delete_files(database, storage)
    assert set(storage.objects) == {"s/a/1/not-yet.bin"}
    assert await keys(database) == {"s/a/1/not-yet.bin"}


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content
