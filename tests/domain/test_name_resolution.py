"""Look-ups of host names while name servers do not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from serve_app.domain import name_resolution
from serve_app.domain.addresses import UnknownHost, connectable
from serve_app.domain.name_resolution import MAX_WAITING_PER_TENANT, NameResolver
from serve_app.domain.sharing.fair_queue import work_of

PUBLIC = ["93.184.215.14"]


class NameServer:
    """Answers at once for names in ``good.example``, never for ``hang.example``, and knows no
    other name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host.endswith("hang.example"):
            self.released.wait(30)
        if host.endswith(("good.example", "hang.example")):
            return PUBLIC
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(120):
            while len(self.asked) < count:  # noqa: ASYNC110 - threads fill it
                await asyncio.sleep(0.005)


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    server = NameServer()
    yield server
    server.released.set()


async def looked_up(resolver: NameResolver, tenant: str, host: str) -> Sequence[str]:
    with work_of(tenant):
        return await resolver(host, 443)


def hang(resolver: NameResolver, tenant: str, count: int) -> list[asyncio.Task[Sequence[str]]]:
    hosts = (f"{tenant}{n}.hang.example" for n in range(count))
    return [asyncio.create_task(looked_up(resolver, tenant, host)) for host in hosts]


async def test_the_system_resolves_names() -> None:
    assert set(await NameResolver()("localhost", 80)) <= {"127.0.0.1", "::1"}


async def test_an_address_needs_no_look_up(server: NameServer) -> None:
    resolver = NameResolver(server)
    assert await resolver("192.0.2.1", 80) == ["192.0.2.1"]
    assert await resolver("2606:4700::1111", 80) == ["2606:4700::1111"]
    assert not server.asked


async def test_a_tenant_whose_look_ups_hang_waits_alone(server: NameServer) -> None:
    resolver = NameResolver(server, per_tenant=4)
    hanging = hang(resolver, "ann", 24)
    await server.until_asked(4)
    own = asyncio.create_task(looked_up(resolver, "ann", "own.good.example"))
    async with asyncio.timeout(120):
        assert await looked_up(resolver, "bob", "bob.good.example") == PUBLIC
    assert not own.done()
    assert len(server.asked) == 5
    server.released.set()
    assert await asyncio.gather(*hanging, own) == [PUBLIC] * 25


async def test_tenants_whose_look_ups_hang_leave_room_for_another(server: NameServer) -> None:
    resolver = NameResolver(server, max_threads=16, per_tenant=8)
    hanging = [task for tenant in "abc" for task in hang(resolver, tenant, 8)]
    await server.until_asked(14)
    async with asyncio.timeout(120):
        assert await looked_up(resolver, "new", "new.good.example") == PUBLIC
    server.released.set()
    await asyncio.gather(*hanging)


async def test_equal_look_ups_at_the_same_time_are_one(server: NameServer) -> None:
    resolver = NameResolver(server)
    same = [
        asyncio.create_task(looked_up(resolver, tenant, "one.hang.example"))
        for tenant in ("ann", "ann", "bob")
    ]
    await server.until_asked(1)
    await asyncio.sleep(0.02)
    server.released.set()
    assert await asyncio.gather(*same) == [PUBLIC] * 3
    assert server.asked == ["one.hang.example"]


async def test_a_look_up_has_a_limit_and_its_host_is_refused_at_once_from_then_on(
    server: NameServer,
) -> None:
    resolver = NameResolver(server, limit_s=0.5)
    with pytest.raises(TimeoutError):
        await looked_up(resolver, "ann", "x.hang.example")
    await asyncio.sleep(0.1)
    async with asyncio.timeout(120):
        with pytest.raises(UnknownHost):
            await connectable("x.hang.example", 443, resolver)
    assert server.asked == ["x.hang.example"]
    server.released.set()
    async with asyncio.timeout(120):
        while True:
            try:
                assert await looked_up(resolver, "ann", "x.hang.example") == PUBLIC
                break
            except TimeoutError:
                await asyncio.sleep(0.01)


async def test_a_look_up_that_is_no_longer_awaited_keeps_its_share(server: NameServer) -> None:
    resolver = NameResolver(server, per_tenant=2, limit_s=0.1)
    for task in hang(resolver, "ann", 2):
        with pytest.raises(TimeoutError):
            await task
    with pytest.raises(TimeoutError):
        await looked_up(resolver, "ann", "own.good.example")
    await server.until_asked(2)
    assert len(server.asked) == 2


async def test_an_unknown_name_is_looked_up_again_after_a_while(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = NameResolver(server)
    for ttl_s, names in ((60.0, ["no.example"]), (0.1, ["no.example", *["other.example"] * 2])):
        monkeypatch.setattr(name_resolution, "NEGATIVE_TTL_S", ttl_s)
        for _ in range(2):
            with pytest.raises(OSError, match=names[-1]):
                await looked_up(resolver, "ann", names[-1])
            await asyncio.sleep(0.15)
        assert server.asked == names


async def test_too_many_waiting_look_ups_of_a_tenant_are_refused(server: NameServer) -> None:
    resolver = NameResolver(server, per_tenant=1)
    hanging = hang(resolver, "ann", 1 + MAX_WAITING_PER_TENANT)
    await server.until_asked(1)
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="Too many names"):
        await looked_up(resolver, "ann", "more.hang.example")
    assert await looked_up(resolver, "bob", "b.good.example") == PUBLIC
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_caller_that_is_cancelled_leaves_the_look_up_to_the_others(
    server: NameServer,
) -> None:
    resolver = NameResolver(server)
    first, second = (
        asyncio.create_task(looked_up(resolver, "ann", "one.hang.example")) for _ in range(2)
    )
    await server.until_asked(1)
    first.cancel()
    await asyncio.sleep(0.02)
    server.released.set()
    assert await second == PUBLIC
