"""Contract of the catalogue's entries that operators have added: over the fake and over
PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import NotFound
from serve_app.domain.ports import Queue
from serve_app.queue.transactions.catalog_entries import (
    AppBundles,
    CatalogEntries,
    EntryRemoval,
    PostgresAppBundles,
    PostgresCatalogEntries,
)
from serve_app.telemetry.clock import SystemClock
from tests.fakes.catalog_entries import FakeAppBundles, FakeCatalogEntries
from tests.fakes.liveness import FakeLiveness
from tests.fakes.queue import FakeQueue
from tests.fakes.terms import FakeTerms
from tests.queue.connections import LastingDatabase
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import lease, make_finish, new

ONE, OTHER = "house/one", "house/other"
ENTRY = {"family": "generic", "schema": "open", "options": {"fixed": {"b": 1, "a": None}}}
ADMIN = Actor("key-1", "192.0.2.1")


@pytest.fixture
async def entries(at: str | None, queue: Queue) -> AsyncIterator[CatalogEntries]:
    if isinstance(queue, FakeQueue):
        yield FakeCatalogEntries(SystemClock(), queue.operations.note, queue.count_unfinished)
        return
    assert at is not None
    database = LastingDatabase(at, connections=2)
    await database.start()
    yield PostgresCatalogEntries(database)
    await database.aclose()


async def test_an_entry_is_read_as_it_was_written(entries: CatalogEntries) -> None:
    assert list(await entries.all()) == []
    await entries.put(OTHER, {}, ADMIN)
    await entries.put(ONE, ENTRY, ADMIN)
    first, other = await entries.all()
    assert (first.endpoint, first.entry, first.changed_by) == (ONE, ENTRY, "key-1")
    assert first.changed_at >= other.changed_at


async def test_an_entry_is_added_only_where_there_is_none(entries: CatalogEntries) -> None:
    added = await asyncio.gather(*(entries.add(ONE, {"n": n}, ADMIN) for n in range(5)))
    assert sorted(added) == [False] * 4 + [True]
    (kept,) = await entries.all()
    assert kept.entry == {"n": added.index(True)}
    assert not await entries.add(ONE, ENTRY, ADMIN)
    assert await entries.all() == [kept]


async def test_each_change_gives_another_version(entries: CatalogEntries) -> None:
    seen = [await entries.version()]
    for entry in (ENTRY, {}, {}):
        await entries.put(ONE, entry, ADMIN)
        seen.append(await entries.version())
    await entries.put(OTHER, {}, ADMIN)
    seen.append(await entries.version())
    await entries.remove(ONE, ADMIN, force=False)
    seen.append(await entries.version())
    assert len(set(seen)) == len(seen)
    assert await entries.version() == seen[-1]


async def test_an_entry_with_unfinished_requests_is_removed_only_by_force(
    entries: CatalogEntries, queue: Queue
) -> None:
    await entries.put(ONE, ENTRY, ADMIN)
    await entries.put(OTHER, ENTRY, ADMIN)
    for _ in range(2):
        await queue.submit(new(endpoint=ONE))
    grant = await lease(queue)
    assert await entries.remove(ONE, ADMIN, force=False) == EntryRemoval(
        removed=False, unfinished=2
    )
    assert len(await entries.all()) == 2
    await queue.finish(make_finish(grant.key))
    assert await entries.remove(ONE, ADMIN, force=True) == EntryRemoval(removed=True, unfinished=1)
    assert [entry.endpoint for entry in await entries.all()] == [OTHER]
    assert await entries.remove(OTHER, ADMIN, force=False) == EntryRemoval(
        removed=True, unfinished=0
    )


async def test_what_is_not_stored_is_not_removed(entries: CatalogEntries) -> None:
    assert not (await entries.remove(ONE, ADMIN, force=True)).removed


async def test_the_audit_log_has_each_entry(entries: CatalogEntries, queue: Queue) -> None:
    await entries.put(ONE, ENTRY, ADMIN)
    await entries.remove(ONE, ADMIN, force=False)
    await entries.remove(ONE, ADMIN, force=False)
    acts = await queue.operations.audit()
    assert [(act.action, act.subject, act.detail) for act in acts] == [
        ("model.remove", ONE, {"entry": ENTRY}),
        ("model.add", ONE, {"entry": ENTRY}),
    ]
    assert (acts[0].actor, acts[0].address) == ("key-1", "192.0.2.1")


async def test_a_request_whose_endpoint_is_new_to_an_ingress_is_not_failed(
    conninfo: str, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    """Another ingress has added the endpoint and taken the request."""
    ingress = Ingress(conninfo, terms, liveness)
    queue = await ingress(LONG_LEASES)
    try:
        terms.new.add(ONE)
        request = await queue.submit(new(endpoint=ONE))
        granted = await lease(queue)
        assert (granted.request_id, granted.endpoint.id) == (request.id, ONE)
    finally:
        await ingress.aclose()


@pytest.fixture
async def bundles(at: str | None, queue: Queue) -> AsyncIterator[AppBundles]:
    if isinstance(queue, FakeQueue):
        yield FakeAppBundles(queue.operations.note)
        return
    assert at is not None
    database = LastingDatabase(at, connections=2)
    await database.start()
    yield PostgresAppBundles(database)
    await database.aclose()


async def test_code_of_an_app_is_stored_once_by_its_digest_and_each_store_is_recorded(
    bundles: AppBundles, queue: Queue
) -> None:
    digest = await bundles.store(b"PK one", ADMIN)
    other = await bundles.store(b"PK other", ADMIN)
    assert await bundles.store(b"PK one", ADMIN) == digest
    assert [await bundles.read(bundle) for bundle in (digest, other)] == [b"PK one", b"PK other"]
    with pytest.raises(NotFound, match="darkroom deploy"):
        await bundles.read("0" * 64)
    acts = await queue.operations.audit(limit=3)
    assert [(act.actor, act.address, act.action, act.subject) for act in acts] == [
        ("key-1", "192.0.2.1", "app.store", bundle) for bundle in (digest, other, digest)
    ]
    assert acts[0].detail == {"bytes": 6}
