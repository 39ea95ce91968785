"""The provider of benchmarks speaks fal's queue as the executor of hosted providers calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from benchmarks.fal_provider import KEY, Provider, start
from deployments.executors.hosted.calls import CallRefused, ProviderClient, Wire
from deployments.executors.hosted.fal import FalQueue
from serve_app.domain.executors.hosted import CallState, HostedCall
from serve_app.options.hosted import HostedEndpoint

PLACE = "fal-ai/veo3.1/fast"
CALL = HostedCall("call", CallState.ACCEPTED, "", PLACE, 0.0)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    backend = Provider()
    server = await start(backend)
    yield backend
    server.close()
    await server.wait_closed()


@pytest.fixture
async def http() -> AsyncIterator[ProviderClient]:
    async with ProviderClient() as client:
        yield client


def queue_of(provider: Provider, http: ProviderClient, key: str = KEY) -> FalQueue:
    spec = HostedEndpoint(
        provider="fal",
        endpoint=PLACE,
        secret="PROVIDER_KEY",
        url=provider.origin,
        history_url=provider.origin,
    )
    return FalQueue(Wire(http, spec, f"Key {key}", {}))


async def test_a_request_has_ended_when_it_is_accepted(
    provider: Provider, http: ProviderClient
) -> None:
    queue = queue_of(provider, http)
    state = await queue.poll(await queue.submit(CALL, {"number": 7}))
    assert state.result == {"number": 7, "steps": 0}
    counts = provider.counts()
    assert (counts["submits"], counts["polls"], counts["read"]) == (1, 1, 1)
    assert not counts["sent_twice"]


async def test_a_request_that_waits_runs_until_all_are_released(
    provider: Provider, http: ProviderClient
) -> None:
    queue = queue_of(provider, http)
    job = await queue.submit(CALL, {"number": 8, "wait": True})
    assert (await queue.poll(job)).result is None
    assert provider.counts()["waiting"] == 1
    await http.once.post(f"{provider.origin}/release")
    assert (await queue.poll(job)).result == {"number": 8, "steps": 0}


async def test_a_request_that_is_sent_twice_is_found(
    provider: Provider, http: ProviderClient
) -> None:
    queue = queue_of(provider, http)
    for _ in range(2):
        await queue.submit(CALL, {"number": 9})
    assert provider.counts()["sent_twice"] == ["9"]


async def test_another_key_is_refused_and_counted(provider: Provider, http: ProviderClient) -> None:
    with pytest.raises(CallRefused):
        await queue_of(provider, http, "another").submit(CALL, {"number": 1})
    assert provider.counts()["refused"] == 1
