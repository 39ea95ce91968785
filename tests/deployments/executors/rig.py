"""A replica of executors without Serve: real worker processes over an in-memory port."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from deployments.executors.code import AppCode
from deployments.executors.deployment import executor_maker
from deployments.executors.describing import bundle
from deployments.executors.hosts import AppHost
from deployments.executors.replica import ExecutorReplica, ExecutorResources
from deployments.replica.config import IngressCalls, IngressLink, ReplicaIdentity
from deployments.transfer.fetcher import Fetcher
from deployments.transfer.uploader import Backoff, Uploader
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Fenced
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import Priority
from serve_app.telemetry.clock import SystemClock
from tests.deployments.storage import HttpStorage
from tests.fakes.lease_port import FakeLeasePort

APP = Path(__file__).with_name("studio_app.py")
CODE = bundle(APP, ())
DIGEST = hashlib.sha256(CODE).hexdigest()
CALLS = IngressCalls(report_interval_s=0.1, confirm_after_s=0.05, call_timeout_s=2.0)
IDENTITY = ReplicaIdentity("replica-1", "ab" * 16, "apps")
FILE = {"type": "string", "x-darkroom-file": "image"}


def endpoint(path: str = "/", name: str = "Studio", **app: Any) -> Endpoint:
    """Endpoint of the tests' app."""
    options = {
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

    async def file_ticket(self, held: LeaseKey, number: int, media_type: str) -> UploadTicket:
        if held in self.fenced:
            raise Fenced("Only the holder of a lease gets a ticket.")
        return self.storage.ticket(f"r/{held.request_id}/{held.attempt}/{number}", media_type)

    async def app_bundle(self, digest: str) -> bytes:
        self.fetched.append(digest)
        return self.code


class ExecutorRig:
    """A replica of executors and its collaborators."""

    def __init__(self, folder: Path, slots: int = 4, max_apps: int = 2, code: bytes = CODE) -> None:
        self.port = FakeLeasePort()
        self.storage = HttpStorage()
        self.source = FakeAppSource(self.storage, code)
        self.clock = SystemClock()
        self.scratch = folder / "scratch"
        unpacked = AppCode(folder / "code", self.source.app_bundle)
        self.host = AppHost(executor_maker(folder, unpacked, self.scratch), max_apps)
        backoff = Backoff(Random(1))  # noqa: S311
        fetcher = Fetcher(
            self.storage.client(),
            NameResolver(per_tenant=1),
            max_bytes=2**20,
            timeout_s=5.0,
            allow_private=False,
        )
        self.uploader = Uploader(self.storage.client(), self.clock, backoff, 5.0)
        resources = ExecutorResources(
            self.host, fetcher, self.uploader, self.source, self.scratch / "requests"
        )
        link = IngressLink(self.port, IDENTITY, CALLS, self.clock, backoff)
        self.replica = ExecutorReplica(link, resources, slots, close_within_s=4.0)

    def lease(self, name: str, path: str = "/", attempt: int = 1, **given: Any) -> Lease:
        """Lease of the request ``name``. ``given``: its input, and fields of the lease that begin
        with ``lease_``."""
        more = {key[6:]: given.pop(key) for key in [*given] if key.startswith("lease_")}
        lease = Lease(
            request_id=name,
            attempt=attempt,
            expires_in_s=600.0,
            endpoint=endpoint(path),
            input=given,
            upload_tickets=(),
            priority=Priority.NORMAL,
            files_url="http://storage",
        )
        return replace(lease, **more)

    def offer(self, name: str, path: str = "/", **given: Any) -> LeaseKey:
        lease = self.lease(name, path, **given)
        self.port.offer(lease)
        return lease.held

    async def outcome(self, held: LeaseKey) -> Outcome:
        """The outcome that the replica reports for the lease."""
        await self.port.until(lambda: any(one.held == held for one in self.port.finishes))
        return next(one.outcome for one in self.port.finishes if one.held == held)

    async def running(self, held: LeaseKey) -> None:
        """Wait until a report shows a step of the request."""
        await self.port.until(
            lambda: any(
                of == held and progress.step
                for _, report in self.port.reports
                for of, progress in report.progress
            )
        )
