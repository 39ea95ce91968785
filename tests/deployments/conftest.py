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

from deployments.engine.engine import Engine
from deployments.engine.loading.residency import Residency
from deployments.engine.threads import Threads
from deployments.families.base import load_families
from deployments.families.registry import FAMILIES
from deployments.replica.config import (
    IngressCalls,
    IngressLink,
    ReplicaConfig,
    ReplicaIdentity,
    SnapshotConfig,
)
from deployments.replica.engine_replica import EngineReplica
from deployments.replica.resources import ReplicaResources
from deployments.transfer.fetcher import Fetcher, OwnStorage
from deployments.transfer.lora_cache import LoraCache
from deployments.transfer.lora_fetcher import LoraFetcher
from deployments.transfer.uploader import Backoff, BucketSink, StorageCalls, Uploader
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.progress import BYTE_STAGES
from serve_app.domain.request import Priority
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
    calls=IngressCalls(
        decision_within_s=1.0, report_interval_s=0.1, confirm_after_s=0.05, call_timeout_s=2.0
    ),
    snapshots=SnapshotConfig(interval_s=0.0),  # else slow machines would store some
)
IDENTITY = ReplicaIdentity("replica-1", "ab" * 16, "pool")


@dataclass
class Rig:
    """A replica and its collaborators."""

    replica: EngineReplica
    port: FakeLeasePort
    storage: HttpStorage
    resources: ReplicaResources
    process_ended: asyncio.Event

    def lease(self, name: str, endpoint: Endpoint = PROBE, attempt: int = 1, **input: Any) -> Lease:
        return Lease(
            request_id=name,
            attempt=attempt,
            expires_in_s=600.0,
            endpoint=endpoint,
            input=input,
            upload_tickets=(self.storage.ticket(f"{name}/{attempt}/0"),),
            priority=Priority.NORMAL,
        )

    def offer(self, name: str, **input: Any) -> LeaseKey:
        lease = self.lease(name, **input)
        self.port.offer(lease)
        return lease.key

    async def outcome(self, lease_key: LeaseKey):
        """The outcome that the replica reports for the lease."""
        await self.port.until(
            lambda: any(finish.lease_key == lease_key for finish in self.port.finishes)
        )
        return next(
            finish.outcome for finish in self.port.finishes if finish.lease_key == lease_key
        )

    async def wait_for_report(self, lease_key: LeaseKey, step: int = 1) -> None:
        """Wait until a report shows ``step`` steps."""
        await self.port.until(
            lambda: any(
                of == lease_key and progress.step >= step and progress.stage not in BYTE_STAGES
                for _, report in self.port.reports
                for of, progress in report.progress
            )
        )


MakeRig = Callable[..., Any]


def make_config(**changes: Any) -> ReplicaConfig:
    """``QUICK`` with ``changes``: settings of the replica itself, its calls and its transfers, and
    those of its snapshots as ``snapshot_…``."""
    config = QUICK
    for name, value in changes.items():
        inner = name.removeprefix("snapshot_")
        groups = ("snapshots",) if inner != name else ("calls", "transfers")
        group = next(
            (candidate for candidate in groups if hasattr(getattr(config, candidate), inner)), None
        )
        if group is None:
            config = replace(config, **{name: value})
        else:
            changed = replace(getattr(config, group), **{inner: value})
            config = replace(config, **{group: changed})
    return config


@pytest.fixture
def scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder for the replica's temporary files, instead of the system's."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
async def make_rig(tmp_path: Path):
    """``await make_rig(port=…, **configuration overrides)`` returns a started replica."""
    rigs: list[Rig] = []

    async def make(
        port: FakeLeasePort | None = None,
        *,
        warms_up: bool = False,
        store: Store | None = None,
        probe: str = "tests.fakes.family:ProbeFamily",
        fetcher: Fetcher | None = None,
        device_bytes: int = 0,
        buckets: BucketSink | None = None,
        **changes: Any,
    ) -> Rig:
        config = make_config(**changes)
        slots = config.slots_on(device_bytes)
        port = port or FakeLeasePort(ask_wait_s=1.0)
        backoff = Backoff(Random(1), first_s=0.02, most_s=0.1)  # noqa: S311
        storage, clock = HttpStorage(), SystemClock()
        engine = Engine(device="cpu", max_generations=slots, threads=config.threads)
        store, calls = store or Store(StoreConfig()), StorageCalls()

        def own_fetcher() -> Fetcher:
            return Fetcher(
                storage.client(),
                NameResolver(),
                max_bytes=4 * 10**6,
                timeout_s=5.0,
                allow_private=False,
                own=OwnStorage(calls),
            )

        resources = ReplicaResources(
            engine=engine,
            slots=slots,
            residency=Residency(engine, config.weights_bytes),
            uploader=Uploader(
                storage.client(), clock, backoff, config.transfers.upload_give_up_s, buckets, calls
            ),
            storage_calls=calls,
            fetcher=fetcher or own_fetcher(),
            snapshot_fetcher=own_fetcher(),
            loras=LoraFetcher(
                fetcher or own_fetcher(),
                RepositoryFiles(store),
                LoraCache(tmp_path / "loras", 10**8, clock.now),
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
        link = IngressLink(port, IDENTITY, config.calls, clock, backoff)
        ended = asyncio.Event()
        replica = EngineReplica(link, families, lambda: resources, config, end_process=ended.set)
        rig = Rig(replica, port, storage, resources, ended)
        rigs.append(rig)
        await replica.start()
        return rig

    yield make
    await asyncio.gather(*(rig.replica.aclose() for rig in rigs))
    # A load cannot be interrupted, and transformers' patches during it affect all threads.
    for thread in threading.enumerate():
        if thread.name.startswith("loader"):
            await asyncio.to_thread(thread.join)


@pytest.fixture
async def rig(make_rig):
    return await make_rig()
