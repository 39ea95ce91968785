"""A replica that calls a hosted provider: a Darkroom, whose protocols the providers' own clients
are tested with in ``tests/wire``, behind a proxy with faults. Calls are kept in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.postgres.database import Database
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.queue.queue import PostgresQueue
from tests.deployments.executors.rig import ExecutorRig
from tests.fakes.faulty_provider import FaultyProvider
from tests.queue.requests import TENANT, lease, new
from tests.wire.served import Address

T = TypeVar("T")
PROBE = "test/probe"
PATHS = {
    "fal": "/queue",
    "darkroom": "",
    "replicate": "/replicate/v1",
    "openai": "/openai/v1",
}


class HostedDesk:
    def __init__(
        self, folder: Path, database: Database, queue: PostgresQueue, provider: Address
    ) -> None:
        self.folder = folder
        self.database = database
        self.queue = queue
        self.provider = provider
        self.proxy = FaultyProvider(provider.url)
        self.url = ""
        self.rigs: list[ExecutorRig] = []
        self.hosted = PostgresHostedCalls(database, release_after_s=0.0)

    async def start(self) -> None:
        self.url = await self.proxy.start()
        await self.replica()

    async def aclose(self) -> None:
        for rig in self.rigs:
            await rig.replica.aclose()
        await self.proxy.aclose()

    @property
    def rig(self) -> ExecutorRig:
        return self.rigs[-1]

    async def replica(self) -> ExecutorRig:
        """Start another replica."""
        rig = ExecutorRig(self.folder / str(len(self.rigs)), slots=64, max_apps=8)
        rig.source.kept = [Secret("PROVIDER_KEY", "", self.provider.key)]
        rig.source.hosted = self.hosted
        self.rigs.append(rig)
        await rig.replica.start()
        return rig

    def endpoint(
        self, family: str, schema: Mapping[str, Any] | None = None, /, **hosted: Any
    ) -> Endpoint:
        url = self.url + PATHS[family]
        hosted_options = {"endpoint": PROBE, "url": url, "grace_s": 30.0, "busy_s": 30.0, **hosted}
        if family == "fal":
            hosted_options.setdefault("history_url", self.url)
        options = {
            "hosted": hosted_options,
            "secrets": ["PROVIDER_KEY"],
            "input_schema": dict(schema or {"type": "object"}),
            "output_schema": {"type": "object"},
        }
        return Endpoint(f"hosted/{family}", family, Weights(""), "json", options=options)

    async def submit_and_lease(self, endpoint: Endpoint, **arguments: Any) -> Lease:
        """Submit a request, and lease it."""
        await self.queue.submit(new(input=arguments))
        return replace(
            await lease(self.queue),
            endpoint=endpoint,
            files_url="http://storage",
            tenant=TENANT,
        )

    async def again(self, before: Lease) -> Lease:
        """The next lease of a request, after its replica has handed it back."""
        await self.queue.hand_back(before.key, "r1", "It ends.")
        granted = await lease(self.queue)
        assert granted.request_id == before.request_id
        return replace(before, attempt=granted.attempt, nonce=granted.nonce)

    async def offer(self, endpoint: Endpoint, **arguments: Any) -> LeaseKey:
        granted = await self.submit_and_lease(endpoint, **arguments)
        self.rig.port.offer(granted)
        return granted.key

    async def outcome(self, endpoint: Endpoint, **arguments: Any) -> Outcome:
        return await self.rig.outcome(await self.offer(endpoint, **arguments))

    async def jobs(self, prompt: str) -> Sequence[Mapping[str, Any]]:
        """Requests with this prompt that the provider has accepted."""
        headers = {"Authorization": f"Key {self.provider.key}"}
        async with httpx2.AsyncClient(trust_env=False) as client:
            page = await client.get(f"{self.provider.url}/v1/requests", headers=headers)
        return [request for request in page.json()["requests"] if request["prompt"] == prompt]

    async def inputs(self, prompt: str) -> Sequence[Mapping[str, Any]]:
        """Inputs with this prompt that the provider got."""
        headers = {"Authorization": f"Key {self.provider.key}"}
        url = f"{self.provider.url}/v1/models/requests/by-endpoint"
        query = {"endpoint_id": PROBE, "expand": "payloads"}
        async with httpx2.AsyncClient(trust_env=False) as client:
            items = (await client.get(url, params=query, headers=headers)).json()["items"]
        return [item["json_input"] for item in items if item["json_input"]["prompt"] == prompt]

    async def job_is(self, state: str, prompt: str) -> None:
        """Wait until the only job with this prompt has a state at the provider."""
        await self.until(
            lambda jobs: [job["state"] for job in jobs] == [state], lambda: self.jobs(prompt)
        )

    async def until(self, right: Callable[[T], bool], read: Callable[[], Awaitable[T]]) -> None:
        """Wait until what is read is right. The time limit is that of the test."""
        while not right(await read()):  # noqa: ASYNC110  # it is another process that changes it
            await asyncio.sleep(0.02)

    async def calls(self) -> list[tuple[Any, ...]]:
        """State and provider's id of the calls, in their order."""
        return await self.database.rows(
            "SELECT state, provider_id FROM hosted_calls ORDER BY sent_at"
        )
