"""A replica of executors without Serve: real worker processes over an in-memory port."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from deployments.executors.base import AppExecutor
from deployments.executors.code import AppCode
from deployments.executors.comfyui.kind import server_plan
from deployments.executors.deployment import plan
from deployments.executors.describing import bundle
from deployments.executors.environment import Environments
from deployments.executors.hosted.calls import ProviderClient
from deployments.executors.hosted.executor import CallPauses, HostedExecutor
from deployments.executors.hosts import AppHost
from deployments.executors.kind import AppPlan, ExecutorContext
from deployments.executors.replica import ExecutorReplica, ExecutorResources, repeat_calls
from deployments.replica.config import (
    IngressCalls,
    IngressLink,
    ReplicaConfig,
    ReplicaIdentity,
)
from deployments.safety.checkers import Checkers
from deployments.transfer.fetcher import Fetcher, fetcher_client
from deployments.transfer.uploader import Backoff, BucketSink, Uploader
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.errors import Fenced
from serve_app.domain.executors.kinds import PROVIDERS
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import LeasePort
from serve_app.domain.progress import PartialResult
from serve_app.domain.request import Priority
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.telemetry.clock import SystemClock
from tests.deployments.storage import HttpStorage
from tests.fakes.file_signer import FakeFileSigner
from tests.fakes.lease_port import FakeLeasePort
from weights.store import Store

APP = Path(__file__).with_name("studio_app.py")
CODE = bundle(APP, ())
DIGEST = hashlib.sha256(CODE).hexdigest()
CALLS = IngressCalls(report_interval_s=0.1, confirm_after_s=0.05, call_timeout_s=2.0)
IDENTITY = ReplicaIdentity("replica-1", "ab" * 16, "apps")
QUICK = CallPauses(
    poll=(0.02, 0.1),
    look=(0.05, 0.2),
    busy=(0.05, 0.2),
    store=(0.02, 0.1),
    file=(0.01, 0.02),
    away_s=600.0,
)
FILE = {"type": "string", "x-darkroom-file": "image"}


def endpoint(
    path: str = "/", name: str = "Studio", secrets: Sequence[str] = (), **app: Any
) -> Endpoint:
    """Endpoint of the tests' app."""
    options = {
        "secrets": list(secrets),
        "app": {
            "bundle": DIGEST,
            "class": f"studio_app:{name}",
            "path": path,
            "concurrency": 2,
            **app,
        },
        "input_schema": {"type": "object", "properties": {"image_url": FILE}},
        "output_schema": {"type": "object"},
    }
    return Endpoint(f"apps/studio{path}", "python", Weights(""), "json", options=options)


@dataclass
class FakeAppSource:
    """Gives tickets of ``storage``, and the code of the tests' app."""

    storage: HttpStorage
    code: bytes = CODE
    fenced: set[LeaseKey] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    kept: list[Secret] = field(default_factory=list)
    hosted: PostgresHostedCalls | None = None
    decisions: list[tuple[LeaseKey, str]] = field(default_factory=list)  # of the safety policy
    partials: list[PartialResult] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)  # oldest number that each call keeps
    taking: asyncio.Event = field(default_factory=asyncio.Event)  # cleared: partials wait
    refuses: Exception | None = None  # what each call with partials raises
    comfyui: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue[bytes])

    def __post_init__(self) -> None:
        self.taking.set()

    async def file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        del tenant
        if lease_key in self.fenced:
            raise Fenced("Only the holder of a lease gets a ticket.")
        return self.storage.ticket(
            f"r/{lease_key.request_id}/{lease_key.attempt}/{number}", media_type
        )

    async def for_executor(self, name: str, *arguments: Any) -> Any:
        if name == "describe_comfyui":
            return self.comfyui.put_nowait(*arguments)
        assert self.hosted is not None
        return await getattr(self.hosted, name.removesuffix("_hosted_call"))(*arguments)

    async def secrets(self, lease_key: LeaseKey, tenant: str) -> tuple[Secret, ...]:
        del tenant
        if lease_key in self.fenced:
            raise Fenced("Only the holder of a lease gets secrets.")
        return tuple(self.kept)

    async def app_bundle(self, digest: str) -> bytes:
        self.fetched.append(digest)
        return self.code

    async def report_decisions(
        self, lease_key: LeaseKey, decisions: tuple[Mapping[str, Any], ...]
    ) -> None:
        self.decisions += [(lease_key, str(decision["action"])) for decision in decisions]

    async def add_partials(
        self, lease_key: LeaseKey, values: Sequence[PartialResult], first: int
    ) -> None:
        await self.taking.wait()
        if self.refuses is not None:
            raise self.refuses
        if lease_key in self.fenced:
            raise Fenced("Only the holder of a lease may add partial results.")
        self.partials += values
        self.firsts.append(first)


class ExecutorRig:
    """A replica of executors and its collaborators."""

    def __init__(
        self,
        folder: Path,
        slots: int = 4,
        max_apps: int = 2,
        code: bytes = CODE,
        buckets: BucketSink | None = None,
        source: type[FakeAppSource] = FakeAppSource,
        apps_dir: Path | None = None,
        config: ReplicaConfig | None = None,
        queue: LeasePort | None = None,
    ) -> None:
        """``apps_dir``: directory of environments, if several tests share them. ``queue``: what
        gives the leases, in place of the test."""
        self.port = FakeLeasePort()
        self.process_ended = asyncio.Event()
        self.storage = HttpStorage()
        self.source = source(self.storage, code)
        self.signer = FakeFileSigner()
        self.clock = SystemClock()
        self.later = timedelta(0)  # of the clock of hosted providers
        self.scratch = folder / "scratch"
        config = replace(config or ReplicaConfig(), apps_dir=apps_dir or folder)
        backoff = Backoff(Random(1))  # noqa: S311
        link = IngressLink(queue or self.port, IDENTITY, CALLS, self.clock, backoff)
        unpacked = AppCode(folder / "code", repeat_calls(self.source, link).app_bundle)
        environments = Environments(config.apps_dir / "environments")
        context = ExecutorContext(config, unpacked.folder, environments, self.source)
        self.comfyui = server_plan(context)

        def made(endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
            if endpoint.family in PROVIDERS:
                return AppPlan(endpoint.family, lambda _: self._hosted())
            return plan(context, endpoint, secrets)

        self.host = AppHost(made, max_apps, self.scratch / "homes")
        fetcher = Fetcher(
            self.storage.client(),
            NameResolver(per_tenant=1),
            max_bytes=2**24,
            timeout_s=5.0,
            allow_private=False,
        )
        self.uploader = Uploader(self.storage.client(), self.clock, backoff, 5.0, buckets)
        resources = ExecutorResources(
            *(self.host, fetcher, self.uploader, self.source, self.scratch / "requests"),
            checkers=Checkers(Store(StoreConfig(folder / "weights"))),
            signer=self.signer,
        )
        self.replica = ExecutorReplica(
            link, resources, slots, close_within_s=4.0, end_process=self.process_ended.set
        )

    def _hosted(self) -> AppExecutor:
        def fetcher() -> Fetcher:
            return Fetcher(
                fetcher_client(),
                NameResolver(per_tenant=1),
                max_bytes=2**20,
                timeout_s=60.0,
                allow_private=True,
            )

        return HostedExecutor(ProviderClient, self.source, fetcher, QUICK, self._now)

    def _now(self) -> datetime:
        return datetime.now(UTC) + self.later

    def lease(self, name: str, path: str = "/", attempt: int = 1, **arguments: Any) -> Lease:
        """Lease of the request ``name``. ``arguments``: its input, and fields of the lease that
        begin with ``lease_``."""
        more = {key[6:]: arguments.pop(key) for key in [*arguments] if key.startswith("lease_")}
        lease = Lease(
            request_id=name,
            attempt=attempt,
            expires_in_s=600.0,
            endpoint=endpoint(path),
            input=arguments,
            upload_tickets=(),
            priority=Priority.NORMAL,
            files_url="http://storage",
        )
        return replace(lease, **more)

    def offer(self, name: str, path: str = "/", **arguments: Any) -> LeaseKey:
        lease = self.lease(name, path, **arguments)
        self.port.offer(lease)
        return lease.key

    async def outcome(self, lease_key: LeaseKey) -> Outcome:
        """The outcome that the replica reports for the lease."""
        await self.port.until(
            lambda: any(finish.lease_key == lease_key for finish in self.port.finishes)
        )
        return next(
            finish.outcome for finish in self.port.finishes if finish.lease_key == lease_key
        )

    async def lines(self, lease_key: LeaseKey) -> Sequence[tuple[str, str]]:
        """Levels and texts that the request has printed until its end. Reports take those that
        come before the end, so how many the end has depends on time."""
        await self.outcome(lease_key)
        reported = [
            line
            for _, report in self.port.reports
            for of, lines in report.lines
            if of == lease_key
            for line in lines
        ]
        finish = next(ended for ended in self.port.finishes if ended.lease_key == lease_key)
        return [*reported, *finish.lines]

    async def running(self, lease_key: LeaseKey) -> None:
        """Wait until a report shows a step of the request."""
        await self.port.until(
            lambda: any(
                of == lease_key and progress.step
                for _, report in self.port.reports
                for of, progress in report.progress
            )
        )
