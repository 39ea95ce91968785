"""What measurements of the queue have in common: a pool without a catalogue, and replicas in this
process that finish at once what they get."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import Ask, Death, Finish, Lease, LeaseKey
from serve_app.domain.media.marking import MarkPolicy
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.domain.outcome import Outcome, Usage
from serve_app.queue.queue import PostgresQueue

POOL = "benchmark"
ENDPOINT = Endpoint(id="noop", family="noop", weights=Weights(source="/"), schema="noop")
OUTCOME = Outcome(output={"images": [{"url": "none"}]}, usage=Usage(0.001, 1, 1.0))


class NoTerms:
    """Terms of leases without files, marks and checks. ``tests/queue/test_benchmark_replica.py``
    leases with them."""

    files_url = ""
    describe_files = False
    certificates = ""

    def marking(self, tenant: str) -> MarkPolicy:
        del tenant
        return MarkPolicy.OFF

    def safety(self, tenant: str, endpoint_id: str) -> tuple[Mapping[str, Any], ...]:
        del tenant, endpoint_id
        return ()

    def fallback_input(
        self, endpoint_id: str, fields: Mapping[str, str | None], input: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        del endpoint_id, fields
        return input

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        del endpoint_id
        return ENDPOINT

    def tickets(
        self,
        lease_key: LeaseKey,
        tenant: str,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> tuple[UploadTicket, ...]:
        del lease_key, tenant, endpoint, input, file_access, upload_policy
        return ()

    def file_ticket(
        self,
        lease_key: LeaseKey,
        tenant: str,
        number: int,
        media_type: str,
        file_access: str = "",
        upload_policy: UploadPolicy | None = None,
    ) -> UploadTicket:
        del tenant, number, media_type, file_access, upload_policy
        raise NotImplementedError(f"{lease_key} makes no files")

    def files_token(self, tenant: str) -> str:
        del tenant
        return ""

    def leftovers(
        self,
        lease_key: LeaseKey,
        endpoint: Endpoint,
        input: Mapping[str, Any],
        file_access: str = "",
    ) -> Sequence[str]:
        del lease_key, endpoint, input, file_access
        return ()

    def snapshot_ticket(self, lease_key: LeaseKey, tenant: str) -> UploadTicket:
        del tenant
        raise NotImplementedError(f"{lease_key} makes no snapshots")

    def state_url(self, key: str) -> str:
        return key

    def unfit(self, named: frozenset[str], device_bytes: int) -> frozenset[str]:
        del named, device_bytes
        return frozenset()

    async def refresh(self) -> None:
        """The catalogue does not change."""


class NoDeaths:
    cluster = "benchmark"

    async def dead(self, actor_ids: Sequence[str]) -> Mapping[str, Death]:
        del actor_ids
        return {}

    async def of_previous_run(self, actor_ids: Sequence[str]) -> frozenset[str]:
        del actor_ids
        return frozenset()


class Replica:
    """Asks, and finishes what it gets; one ask outstanding, as many slots as it is given."""

    def __init__(self, queue: PostgresQueue, name: str, slots: int) -> None:
        self._queue = queue
        self._name = name
        self._free = slots
        self._room = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        while True:
            if self._free == 0:
                self._room.clear()
                await self._room.wait()
            work = await self._queue.ask(Ask(self._name, self._name, POOL, self._free))
            for lease in work.leases:
                self._free -= 1
                task = asyncio.create_task(self._finish(lease))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _finish(self, lease: Lease) -> None:
        await self._queue.finish(Finish(lease.key, self._name, OUTCOME))
        self._free += 1
        self._room.set()
