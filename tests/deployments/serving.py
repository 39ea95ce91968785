"""Runs a replica under a real Serve, with an ingress that only records its calls.

Runs in its own process, because Ray changes its process too much. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve

from deployments.replica.config import ReplicaConfig
from deployments.replica.deployment import EngineDeployment
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import (
    Ask,
    Finish,
    Lease,
    LeaseKey,
    Presence,
    Report,
    ReportReply,
    Verdict,
    Work,
)
from serve_app.domain.progress import BYTE_STAGES, StoredSnapshot
from serve_app.domain.request import Priority
from serve_app.ingress.local_rpc import LocalRpcServer
from tests.fakes.lease_port import FakeLeasePort

ENDPOINT = Endpoint("probe", "probe", Weights("probe"), "probe")
FAMILIES = {"probe": "tests.fakes.family:ProbeFamily"}


class StubIngress:
    """Ingress methods that replicas call, backed by the fake port."""

    def __init__(self) -> None:
        self._port = FakeLeasePort(ask_wait_s=2.0)
        self._folder = tempfile.TemporaryDirectory(prefix="dk")
        self._lines = LocalRpcServer(self._port, Path(self._folder.name))

    async def line(self) -> str:
        if not self._lines.path:
            await self._lines.start()
        return self._lines.path

    async def announce(self, presence: Presence) -> Work | None:
        return await self._port.announce(presence)

    async def ask(self, ask: Ask) -> Work:
        return await self._port.ask(ask)

    async def report(self, report: Report) -> ReportReply:
        return await self._port.report(report)

    async def finish(self, finish: Finish) -> Verdict:
        return await self._port.finish(finish)

    async def finish_all(self, finishes: Sequence[Finish]) -> Sequence[Verdict | BaseException]:
        calls = (self._port.finish(finish) for finish in finishes)
        return await asyncio.gather(*calls, return_exceptions=True)

    async def hand_back(
        self, lease_key: LeaseKey, replica_id: str, reason: str, snapshot: StoredSnapshot | None
    ) -> Verdict:
        return await self._port.hand_back(lease_key, replica_id, reason, snapshot)

    async def offer(self, leases: list[Lease]) -> None:
        self._port.offer(*leases)

    async def wait_for_finishes(self, count: int) -> list[Finish]:
        return await self._port.wait_for_finishes(count)

    async def until_reported(self, request_id: str) -> None:
        await self._port.until(
            lambda: any(
                key.request_id == request_id and progress.step and progress.stage not in BYTE_STAGES
                for _, report in self._port.reports
                for key, progress in report.progress
            )
        )

    async def cancel(self, lease_key: LeaseKey) -> None:
        self._port.cancelled.add(lease_key)

    async def until_handed_back(self, count: int) -> dict[str, Any]:
        await self._port.until(lambda: len(self._port.handed_back) >= count)
        return {
            "stages": [presence.stage.value for presence in self._port.presences],
            "actor_ids": list({ask.actor_id for ask in self._port.asks}),
            "handed_back": [key.request_id for key in self._port.handed_back],
        }


def lease(name: str, **input: Any) -> Lease:
    return Lease(name, 1, 5.0, ENDPOINT, input, (), Priority.NORMAL)


def ingress() -> serve.Application:
    return serve.deployment(
        StubIngress, name="ingress", ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1000
    ).bind()


def pool() -> serve.Application:
    config = ReplicaConfig(slots=2, threads=1, device="cpu", graceful_shutdown_timeout_s=10.0)
    return serve.deployment(
        EngineDeployment,
        name="pool",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.1,
    ).bind("pool", config, FAMILIES, "ingress", "front")


async def scenario() -> dict[str, Any]:
    port = serve.get_deployment_handle("ingress", "front")
    await port.offer.remote([lease("ok", steps=3), lease("bad", fail="No.")])
    ends = await port.finished.remote(2)
    await port.offer.remote([lease("long", steps=100_000, step_ms=5)])
    await port.until_reported.remote("long")
    await port.cancel.remote(LeaseKey("long", 1))
    ends = await port.finished.remote(3)
    running = ["a", "b"]  # as many as the replica has slots
    await port.offer.remote([lease(name, steps=100_000, step_ms=5) for name in running])
    for name in running:
        await port.until_reported.remote(name)
    await asyncio.to_thread(serve.run, pool(), name="back", route_prefix=None)
    seen = await port.until_handed_back.remote(len(running))
    codes = {
        end.lease_key.request_id: end.outcome.failure.code if end.outcome.failure else "succeeded"
        for end in ends
    }
    return {**seen, "codes": codes}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dk") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            _temp_dir=folder,
            log_to_driver=False,
        )
        try:
            serve.start(proxy_location="Disabled")
            serve.run(ingress(), name="front", route_prefix=None)
            serve.run(pool(), name="back", route_prefix=None)
            print(json.dumps(asyncio.run(scenario())))  # noqa: T201
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main()
