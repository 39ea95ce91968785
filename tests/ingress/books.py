"""What an ingress keeps: in this process, or in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from serve_app.domain.ports import Clock
from serve_app.jobs.postgres import PostgresJobs
from serve_app.postgres.comfyui import PostgresComfyUiBook
from serve_app.postgres.file_access import PostgresFileAccess
from serve_app.queue.queue import assemble
from serve_app.queue.store.config import QueueLimits, Retention
from serve_app.queue.transactions.catalog_entries import PostgresAppBundles, PostgresCatalogEntries
from serve_app.queue.transactions.deletion import PostgresLifecycles
from serve_app.queue.transactions.signing_keys import PostgresSigningSeeds
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from serve_app.registry.postgres import PostgresWeightBook
from serve_app.resources.postgres_table import PostgresTables
from serve_app.tenants.deletions import PostgresTenantDeletions
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.tenants import PostgresTenants
from tests.fakes.catalog_entries import FakeAppBundles, FakeCatalogEntries
from tests.fakes.comfyui import FakeComfyUiBook
from tests.fakes.file_access import FakeFileAccess
from tests.fakes.keyring import FakeKeyRing
from tests.fakes.liveness import FakeLiveness
from tests.fakes.partial_results import FakePartialResults
from tests.fakes.queue import FakeQueue
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.fakes.tables import FakeTables
from tests.fakes.tenant_deletions import FakeTenantDeletions
from tests.fakes.tenants import FakeTenants
from tests.fakes.uploads import FakeUploads
from tests.fakes.weight_book import FakeWeightBook
from tests.queue.connections import LastingDatabase
from tests.queue.database import empty_tables


@dataclass(frozen=True)
class Books:
    """The types are those of the ports. Fakes have more, which tests look at."""

    queue: Any
    lifecycles: Any
    outbox: Any
    partials: Any
    uploads: Any
    keys: Any
    seeds: Any
    rules: Any  # of access to files
    entries: Any  # of the catalogue
    bundles: Any
    comfyui: Any
    weights: Any
    jobs: Any
    tenants: Any
    deletions: Any  # of tenants
    tables: Any


MakeBooks = Callable[[Clock, Any, QueueLimits, FakeLiveness], AbstractAsyncContextManager[Books]]
"""(clock, terms of leases, limits, liveness) → books, closed at the end."""


@asynccontextmanager
async def fakes(
    clock: Clock, terms: Any, limits: QueueLimits, liveness: FakeLiveness
) -> AsyncGenerator[Books]:
    queue = FakeQueue(clock, terms, limits, liveness)
    note = queue.operations.note
    uploads = FakeUploads(clock, note=note)
    queue.batches.files.uploads, uploads.batches = uploads, queue.batches
    keys = FakeKeyRing(clock, note)
    weights = FakeWeightBook(clock, note, queue.count_unfinished)
    tenants = FakeTenants(clock, keys, note)
    yield Books(
        queue=queue,
        lifecycles=queue.lifecycles,
        outbox=queue.outbox,
        partials=FakePartialResults(queue),
        uploads=uploads,
        keys=keys,
        seeds=FakeSigningSeeds(clock, note),
        rules=FakeFileAccess(clock, note),
        entries=FakeCatalogEntries(clock, note, queue.count_unfinished),
        bundles=FakeAppBundles(note),
        comfyui=FakeComfyUiBook(clock),
        weights=weights,
        jobs=weights.jobs,
        tenants=tenants,
        deletions=FakeTenantDeletions(clock, tenants),
        tables=FakeTables(note),
    )


def in_postgres(conninfo: str) -> MakeBooks:
    """Books of the database, whose tables are emptied."""

    @asynccontextmanager
    async def books(
        clock: Clock, terms: Any, limits: QueueLimits, liveness: FakeLiveness
    ) -> AsyncGenerator[Books]:
        await asyncio.to_thread(empty_tables, conninfo)
        database = LastingDatabase(conninfo)
        await database.start()
        queue = assemble(database, clock, terms, limits, liveness, "ingress")
        try:
            await queue.start()
            yield Books(
                queue=queue,
                lifecycles=PostgresLifecycles(database),
                outbox=PostgresOutbox(database),
                partials=queue.partials,
                uploads=PostgresUploads(database, Retention()),
                keys=KeyRing(database, clock),
                seeds=PostgresSigningSeeds(database),
                rules=PostgresFileAccess(database),
                entries=PostgresCatalogEntries(database),
                bundles=PostgresAppBundles(database),
                comfyui=PostgresComfyUiBook(database),
                weights=PostgresWeightBook(database),
                jobs=PostgresJobs(database),
                tenants=PostgresTenants(database, clock),
                deletions=PostgresTenantDeletions(database, clock),
                tables=PostgresTables(database),
            )
        finally:
            await queue.aclose()
            await database.aclose()

    return books
