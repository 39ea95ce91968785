"""Requests whose files are fetched take no slot: one tenant's slow server keeps nobody else from
computing. Real queues, a real replica and real HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from deployments.replica.poller import max_fetches
from deployments.transfer.fetcher import Fetcher, fetcher_client
from deployments.transfer.lora_fetcher import RequestedLora
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lora import FileUrl
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.ports import Queue
from serve_app.domain.request import State
from serve_app.queue.store.config import QueueLimits
from tests.contract.queues import Make, at, make
from tests.deployments.conftest import IDENTITY, PROBE
from tests.deployments.slow_server import SlowServer
from tests.deployments.waiting import until
from tests.fakes.family import ProbeFamily
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, conninfo, liveness, server
from tests.queue.requests import new

__all__ = ["at", "conninfo", "liveness", "make", "server"]

pytestmark = pytest.mark.engine

LIMITS: QueueLimits = replace(LONG_LEASES, ask_wait_s=30.0)
EDITS = Endpoint("edits", "probe", Weights("probe"), "probe", options={"task": "image-to-image"})


class ProbeTerms(FakeTerms):
    """Endpoints of the probe family. ``edits`` reads the image at ``image_url``."""

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        return EDITS if endpoint_id == "edits" else replace(PROBE, id=endpoint_id)


@pytest.fixture
def terms() -> FakeTerms:
    return ProbeTerms()


@pytest.fixture
async def slow() -> AsyncIterator[SlowServer]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    async with SlowServer(file.getvalue()) as started:
        yield started


def fetcher() -> Fetcher:
    return Fetcher(
        fetcher_client(), NameResolver(), max_bytes=10**6, timeout_s=600.0, allow_private=True
    )


async def wait_for_end(queue: Queue, tenant: str, id_: str) -> State:
    """State of the request at its end."""
    request = await queue.get(tenant, id_)
    async with asyncio.timeout(60):
        while not request.state.final:
            request = await queue.wait(tenant, id_, 5.0)
    return request.state


async def submit(queue: Queue, tenant: str, endpoint: str = "probe", **input: Any) -> str:
    request = await queue.submit(
        new(
            tenant=tenant,
            endpoint=endpoint,
            pool=IDENTITY.pool,
            input={"steps": 1, "artifacts": 0, **input},
        )
    )
    return request.id


async def test_a_tenant_whose_server_drips_keeps_nobody_from_computing(
    make: Make, make_rig: Any, slow: SlowServer
) -> None:
    queue = await make(LIMITS)
    alices = [await submit(queue, "alice", "edits", image_url=slow.url("drip")) for _ in range(20)]
    await make_rig(queue, slots=1, fetcher=fetcher())
    await until(lambda: slow.open >= max_fetches(1))
    for endpoint in ("probe", "edits", "probe"):
        image = {"image_url": slow.url("quick")} if endpoint == "edits" else {}
        bobs = await submit(queue, "bob", endpoint, **image)
        assert await wait_for_end(queue, "bob", bobs) is State.SUCCEEDED
    assert slow.open == max_fetches(1)  # of Alice's twenty
    states = [(await queue.get("alice", alice)).state for alice in alices]
    assert states.count(State.RUNNING) == max_fetches(1)
    for request_id in alices:
        await queue.cancel("alice", request_id)
    for request_id in alices:
        assert await wait_for_end(queue, "alice", request_id) is State.CANCELLED


class LoraFamily(ProbeFamily):
    """The probe family with LoRAs by URL."""

    def loras(self, input: Mapping[str, Any]) -> Sequence[RequestedLora]:
        return [RequestedLora("loras", FileUrl(url), 1.0) for url in input.get("loras", [])]


async def test_a_tenant_whose_lora_drips_keeps_nobody_from_computing(
    make: Make, make_rig: Any, slow: SlowServer
) -> None:
    queue = await make(LIMITS)
    alices = [
        await submit(queue, "alice", loras=[slow.url(f"{number}/drip")]) for number in range(20)
    ]
    await make_rig(queue, slots=1, fetcher=fetcher(), probe=f"{__name__}:LoraFamily")
    await until(lambda: slow.open >= max_fetches(1))
    for _ in range(2):
        bobs = await submit(queue, "bob")
        assert await wait_for_end(queue, "bob", bobs) is State.SUCCEEDED
    states = [(await queue.get("alice", alice)).state for alice in alices]
    assert states.count(State.RUNNING) == max_fetches(1)
    for request_id in alices:
        await queue.cancel("alice", request_id)
    for request_id in alices:
        assert await wait_for_end(queue, "alice", request_id) is State.CANCELLED


async def test_what_was_fetched_waits_for_a_slot_and_takes_no_more_work(
    make: Make, make_rig: Any, slow: SlowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await make(LIMITS)
    alices = [await submit(queue, "alice", "edits", image_url=slow.url("held")) for _ in range(2)]
    rig = await make_rig(queue, slots=1, fetcher=fetcher())
    engine, generations, at_once = rig.resources.engine, list[Any](), list[int]()
    unwatched = engine.submit

    def watched(**arguments: Any) -> Any:
        generations.append(unwatched(**arguments))
        at_once.append(sum(not generation.done() for generation in generations[:-1]) + 1)
        return generations[-1]

    monkeypatch.setattr(engine, "submit", watched)
    await until(lambda: slow.open >= 2)
    bobs = await submit(queue, "bob", sleep_s=1.0)
    request = await queue.get("bob", bobs)
    async with asyncio.timeout(60):
        while request.state is not State.RUNNING:
            request = await queue.wait_for_change("bob", bobs, 5.0, since=request)
    slow.release()
    for tenant, request_id in [("bob", bobs), *[("alice", alice) for alice in alices]]:
        assert await wait_for_end(queue, tenant, request_id) is State.SUCCEEDED
    assert at_once == [1, 1, 1]


async def test_a_lone_tenant_fetches_and_computes_all_that_it_queued(
    make: Make, make_rig: Any, slow: SlowServer
) -> None:
    queue = await make(LIMITS)
    await make_rig(queue, slots=1, fetcher=fetcher())
    alices = [await submit(queue, "alice", "edits", image_url=slow.url("late")) for _ in range(6)]
    for request_id in alices:
        assert await wait_for_end(queue, "alice", request_id) is State.SUCCEEDED


async def test_requests_that_fetch_are_handed_back_when_the_replica_closes(
    make: Make, make_rig: Any, slow: SlowServer
) -> None:
    queue = await make(LIMITS)
    alices = await submit(queue, "alice", "edits", image_url=slow.url("drip"))
    # Long enough for a busy machine: closing ends as soon as all is handed back.
    patience = {"graceful_shutdown_timeout_s": 125.0, "call_timeout_s": 60.0}
    rig = await make_rig(queue, slots=1, fetcher=fetcher(), **patience)
    await until(lambda: slow.open >= 1)
    await rig.replica.aclose()
    request = await queue.get("alice", alices)
    assert (request.state, request.failures) == (State.QUEUED, 0)
