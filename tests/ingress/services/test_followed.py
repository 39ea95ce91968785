"""What one ingress process changes is in force in the others before it answers."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.workflows.entry import definition_of
from serve_app.catalog.workflows.reader import read
from serve_app.domain.audit.acts import Actor
from serve_app.domain.workflows.runs import NewWorkflow
from serve_app.ingress.services.followed import share_changes
from serve_app.ingress.services.live_catalog import LiveCatalog
from serve_app.ingress.services.live_tenants import LiveTenants
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store import notify
from serve_app.queue.transactions.catalog_entries import PostgresCatalogEntries
from serve_app.settings import Config
from serve_app.telemetry.clock import SystemClock
from serve_app.tenants.deletions import PostgresTenantDeletions
from serve_app.tenants.tenants import PostgresTenants, TenantChange
from tests.contract.waiting import eventually
from tests.ingress.house import OTHERS
from tests.ingress.workflows.test_running import POSTER
from tests.queue.database import LONG_LEASES, Ingress, conninfo, ingress, liveness, server, terms

__all__ = ["conninfo", "ingress", "liveness", "server", "terms"]

PATIENT = replace(LONG_LEASES, check_interval_s=600.0)
ME = Actor("me", "127.0.0.1")
POSTER_OF = "workflows/default/poster"
WORKFLOW = NewWorkflow("default", "poster", definition_of(read(POSTER)), POSTER)


@dataclass
class Process:
    """An ingress process that never looks by itself."""

    queue: PostgresQueue
    catalog: Catalog
    entries: LiveCatalog
    tenants: LiveTenants

    def serves(self, endpoint: str) -> bool:
        return self.catalog.of_tenant("default").find(endpoint) is not None

    async def register(self) -> None:
        assert await self.queue.workflows.definitions.put(WORKFLOW, 10, ME)
        await self.entries.put_in_force()

    async def unregister(self) -> None:
        assert await self.queue.workflows.definitions.remove("default", "poster", ME)
        await self.entries.put_in_force()


async def start(ingress: Ingress) -> Process:
    queue = await ingress(PATIENT)
    database, clock, catalog = queue._database, SystemClock(), Catalog({})
    catalog.become(OTHERS)
    definitions = queue.workflows.definitions
    stored = PostgresCatalogEntries(database)
    entries = LiveCatalog(stored, Config(gpus=0), catalog, workflows=definitions)
    tenants = LiveTenants(
        PostgresTenants(database, clock), PostgresTenantDeletions(database, clock)
    )
    await entries.refresh()
    share_changes(queue.parts.state.notifier, [entries, tenants])

    async def listens() -> bool:
        return queue.parts.state.notifier.listening

    await eventually(listens)
    return Process(queue, catalog, entries, tenants)


async def test_what_one_process_registers_and_removes_is_so_in_the_others_at_once(
    ingress: Ingress,
) -> None:
    processes = [await start(ingress) for _ in range(3)]
    here, *others = processes
    await here.register()
    assert all(process.serves(POSTER_OF) for process in processes)
    await others[0].unregister()
    assert not any(process.serves(POSTER_OF) for process in processes)


async def test_a_tenant_that_one_process_disables_is_disabled_in_the_others_at_once(
    ingress: Ingress,
) -> None:
    here, there = await start(ingress), await start(ingress)
    await here.tenants.create("acme", "", {}, ME)
    await here.tenants.change("acme", TenantChange(disabled=True), ME)
    assert there.tenants.disabled == {"acme"}


async def test_a_process_that_hangs_delays_a_change_elsewhere_for_a_limited_time(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "REFRESH_WAIT_S", 0.2)
    here, other, hung = [await start(ingress) for _ in range(3)]
    hung.queue.parts.state.notifier.on_refresh = asyncio.Event().wait  # type: ignore[assignment]
    began = time.monotonic()
    await here.register()
    assert 0.2 <= time.monotonic() - began < 30
    assert other.serves(POSTER_OF)


async def test_a_process_that_is_alone_waits_for_nobody(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "REFRESH_WAIT_S", 600.0)
    here = await start(ingress)
    await here.register()
    assert here.serves(POSTER_OF)
