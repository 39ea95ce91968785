"""Connections of the calls to a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deployments.executors.hosted.calls import CALLS_OF_A_CLIENT, ProviderClient, Wire
from serve_app.options.hosted import HostedEndpoint


class Provider:
    """HTTP server that sets a cookie with each answer."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[str] = []
        self.origin = ""
        self.meet = 0  # calls that have to be there before one is answered
        self.meeting = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
                length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
                await reader.readexactly(length)
                self.requests.append(head)
                async with self.meeting:
                    self.meeting.notify_all()
                    await self.meeting.wait_for(lambda: len(self.requests) >= self.meet)
                writer.write(b"HTTP/1.1 200 OK\r\nset-cookie: whose=tenant-1\r\n")
                writer.write(b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass  # the client has closed it
        finally:
            writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    fake = Provider()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield fake
    server.close()
    await server.wait_closed()


@pytest.fixture
async def wire(provider: Provider) -> AsyncIterator[Wire]:
    spec = HostedEndpoint(
        provider="fal",
        endpoint="fal-ai/any",
        secret="PROVIDER_KEY",
        url=provider.origin,
        history_url=provider.origin,
    )
    async with ProviderClient() as http:
        yield Wire(http, spec, "Key k", {})


async def test_looks_at_jobs_share_a_connection_and_a_call_that_costs_money_has_its_own(
    provider: Provider, wire: Wire
) -> None:
    for _ in range(3):
        await wire.get(f"{provider.origin}/status")
    assert provider.connections == 1
    for _ in range(2):
        await wire.post_once(f"{provider.origin}/submit", {"prompt": "a lighthouse"})
    assert provider.connections == 3


async def test_looks_that_are_made_at_once_share_few_clients_and_use_connections_again(
    provider: Provider, wire: Wire
) -> None:
    """The cost of a call grows with the connections of its HTTP client: see the constant."""
    number = 5 * CALLS_OF_A_CLIENT
    for rounds in (1, 2):
        provider.meet = rounds * number
        calls = [wire.get(f"{provider.origin}/status") for _ in range(number)]
        await asyncio.gather(*calls)
    assert provider.connections == number
    assert len(wire._http._repeatable) == 5


async def test_a_cookie_that_a_provider_sets_is_sent_with_no_other_call(
    provider: Provider, wire: Wire
) -> None:
    for _ in range(2):
        await wire.get(f"{provider.origin}/status")
        await wire.post_once(f"{provider.origin}/submit", {})
    assert len(provider.requests) == 4
    assert [request for request in provider.requests if "cookie" in request] == []
