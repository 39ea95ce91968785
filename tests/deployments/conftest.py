"""A replica without Serve: the real engine and families over an in-memory port and storage."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deployments.adapter_cache import AdapterCache
from deployments.adapter_fetching import AdapterFetcher
from deployments.backoff import Backoff
from deployments.core import ReplicaCore
from deployments.engine.engine import Engine
from deployments.engine.residency import Residency
from deployments.engine.threads import Threads
from deployments.families import FAMILIES
from deployments.family import load_families
from deployments.fetching import Fetcher
from deployments.replica_config import Identity, ReplicaConfig
from deployments.upload import Uploader
from deployments.workshop import Workshop
from serve_app.domain.addresses import resolve
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Held, Lease
from serve_app.domain.request import Priority
from serve_app.domain.store_config import StoreConfig
from serve_app.telemetry.clock import SystemClock
from tests.deployments.storage import HttpStorage
from tests.engine.threads import one_torch_thread
from tests.fakes.lease_port import FakeLeasePort
from weights.repository_files import RepositoryFiles
from weights.store import Store

__all__ = ["one_torch_thread"]

PROBE = Endpoint("probe", "probe", Weights("probe"), "probe")
QUICK = ReplicaConfig(
    slots=2,
    threads=1,
    device="cpu",
    graceful_shutdown_timeout_s=8.0,
    report_interval_s=0.1,
    call_timeout_s=2.0,
)
IDENTITY = Identity("replica-1", "ab" * 16, "pool")


@dataclass
class Rig:
    """A replica and what it works with."""

    core: ReplicaCore
    port: FakeLeasePort
    storage: HttpStorage
    workshop: Workshop

    def lease(self, name: str, endpoint: Endpoint = PROBE, attempt: int = 1, **input: Any) -> Lease:
        return Lease(
            request_id=name,
            attempt=attempt,
            expires_in_s=5.0,
            endpoint=endpoint,
            input=input,
            upload_tickets=(self.storage.ticket(f"{name}/{attempt}/0"),),
            priority=Priority.NORMAL,
        )

    def offer(self, name: str, **input: Any) -> Held:
        lease = self.lease(name, **input)
        self.port.offer(lease)
        return lease.held

    async def outcome(self, held: Held):
        """How the replica says that it ended."""
        await self.port.until(lambda: any(one.held == held for one in self.port.finishes))
        return next(one.outcome for one in self.port.finishes if one.held == held)

    async def reported(self, held: Held, step: int = 1) -> None:
        """Wait until a report says that it made ``step`` steps."""
        await self.port.until(
            lambda: any(
                of == held and progress.step >= step
                for _, report in self.port.reports
                for of, progress in report.progress
            )
        )


MakeRig = Callable[..., Any]


@pytest.fixture
def scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files that a replica writes on the way are, in place of the system's folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
async def make_rig(tmp_path: Path):
    """``await make_rig(port=…, **changes of the configuration)``: a started replica."""
    rigs: list[Rig] = []

    async def make(
        port: FakeLeasePort | None = None,
        *,
        warms_up: bool = False,
        store: Store | None = None,
        probe: str = "tests.fakes.family:ProbeFamily",
        **changes: Any,
    ) -> Rig:
        config = replace(QUICK, **changes)
        port = port or FakeLeasePort(ask_wait_s=1.0)
        backoff = Backoff(Random(1), first_s=0.02, most_s=0.1)  # noqa: S311
        storage, clock = HttpStorage(), SystemClock()
        engine = Engine(device="cpu", max_generations=config.slots, threads=config.threads)
        store = store or Store(StoreConfig())

        def fetcher() -> Fetcher:
            return Fetcher(
                storage.client(),
                resolve,
                max_bytes=10**6,
                timeout_s=5.0,
                allow_private=False,
            )

        workshop = Workshop(
            engine=engine,
            residency=Residency(engine, config.weights_bytes),
            uploader=Uploader(storage.client(), clock, backoff, config.upload_give_up_s),
            fetcher=fetcher(),
            snapshot_fetcher=fetcher(),
            adapters=AdapterFetcher(
                fetcher(),
                RepositoryFiles(store),
                AdapterCache(tmp_path / "adapters", 10**8, clock.now),
                clock,
                10**6,
            ),
            encoders=Threads(2),
            writers=Threads(2),
            clock=clock,
            warms_up=warms_up,
            store=store,
        )
        families = load_families({**FAMILIES, "probe": probe})
        core = ReplicaCore(port, families, lambda: workshop, config, IDENTITY, clock, backoff)
        rig = Rig(core, port, storage, workshop)
        rigs.append(rig)
        await core.start()
        return rig

    yield make
    await asyncio.gather(*(rig.core.aclose() for rig in rigs))
    # A load that has begun goes on, and what transformers patches meanwhile holds for all threads.
    for thread in threading.enumerate():
        if thread.name.startswith("loader"):
            await asyncio.to_thread(thread.join)


@pytest.fixture
async def rig(make_rig):
    return await make_rig()
