"""A tenant's realtime sessions leave slots to others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from serve_app.domain.errors import Overloaded
from serve_app.domain.request import State
from serve_app.ingress.app import create_app
from serve_app.ingress.services import session_limit
from serve_app.ingress.services.session_limit import SessionCounts, max_sessions
from serve_app.settings import Config, PoolConfig
from tests.deployments.waiting import until
from tests.ingress.house import House, build_house
from tests.ingress.socket import connect


async def test_one_more_session_than_the_limit_is_refused_until_another_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_limit, "RELEASE_S", 0.2)
    async with build_house(max_sessions_per_tenant=1) as house:
        async with connect(house) as first:
            first.send(echo=1)
            assert (await first.hear())["echo"] == 1
            async with connect(house) as second:
                refusal = await second.hear()
                assert await second.end() == 1013
            assert refusal["type"] == "x-fal-error"
            assert refusal["error"] == "CONCURRENT_REQUESTS_LIMIT"
            assert "1 open realtime sessions" in refusal["reason"]
            first.send(echo=2)  # it is not disturbed
            assert (await first.hear())["echo"] == 2
        async with connect(house) as third:
            third.send(echo=3)
            assert (await third.hear())["echo"] == 3


async def test_a_client_that_hangs_up_and_connects_again_is_not_refused() -> None:
    async with build_house(max_sessions_per_tenant=1) as house, connect(house) as first:
        first.send(echo=1)
        assert (await first.hear())["echo"] == 1
        first.hang_up()
        async with connect(house) as second:
            second.send(echo=2)
            assert (await second.hear())["echo"] == 2


@asynccontextmanager
async def two_processes(most: int) -> AsyncGenerator[tuple[House, House]]:
    """Two ingress processes with one queue; sessions are only counted in common by the queue."""
    async with build_house(max_sessions_per_tenant=most) as house:
        services = replace(house.services, session_counts=SessionCounts())
        app = create_app()
        app.state.services = services
        yield house, replace(house, app=app, services=services)


async def test_the_limit_counts_the_sessions_at_all_ingress_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_limit, "RELEASE_S", 0.2)
    async with two_processes(most=1) as (here, there), connect(here) as first:
        first.send(echo=1)
        assert (await first.hear())["echo"] == 1
        async with connect(there) as second:
            refusal = await second.hear()
            assert await second.end() == 1013
        assert refusal["error"] == "CONCURRENT_REQUESTS_LIMIT"
        assert "1 open realtime sessions" in refusal["reason"]
        first.send(echo=2)  # it is not disturbed
        assert (await first.hear())["echo"] == 2


async def test_a_session_that_was_just_closed_elsewhere_makes_room_for_the_next() -> None:
    async with two_processes(most=1) as (here, there):
        for house in (here, there, here):
            async with connect(house) as client:
                client.send(echo=1)
                assert (await client.hear())["echo"] == 1


async def test_sessions_that_begin_at_once_at_several_processes_are_never_too_many() -> None:
    async with two_processes(most=1) as houses, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(houses[n % 2])) for n in range(4)]
        for client in clients:
            client.send(echo=1)
        heard = [await client.hear(within_s=60.0) for client in clients]
        assert sum("echo" in message for message in heard) <= 1
        await until(lambda: len(here_open(houses[0])) <= 1)


def here_open(house: House) -> Sequence[str]:
    """Ids of the open sessions."""
    return [
        id_
        for id_, row in house.queue._rows.items()
        if row.request.state in (State.QUEUED, State.RUNNING)
    ]


async def test_sessions_of_other_tenants_and_pools_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_limit, "RELEASE_S", 0.0)
    counts = SessionCounts()
    async with counts.count("studio", "ann", 1):
        async with counts.count("studio", "bob", 1), counts.count("video", "ann", 1):
            pass
        with pytest.raises(Overloaded):
            async with counts.count("studio", "ann", 1):
                pass
        async with counts.count("studio", "ann", None):
            pass
    async with counts.count("studio", "ann", 1):
        pass


@pytest.mark.parametrize(
    ("pool", "most"),
    [
        (PoolConfig(families=("flux",)), 1),
        (PoolConfig(families=("flux",), slots=1), 1),
        (PoolConfig(families=("flux",), num_gpus=1), 2),
        (PoolConfig(families=("flux",), slots=5, max_replicas=3), 7),
    ],
)
def test_the_default_is_half_of_the_slots_that_a_pool_can_have(pool: PoolConfig, most: int) -> None:
    assert max_sessions(Config(gpus=0, pools={"studio": pool}), "studio") == most
    assert max_sessions(Config(gpus=0, pools={"studio": pool}), "other") is None
    told = Config(gpus=0, pools={"studio": pool}, max_sessions_per_tenant=9)
    assert max_sessions(told, "studio") == 9
