"""A tenant's realtime sessions leave slots to others."""

from __future__ import annotations

import pytest

from serve_app.domain.errors import Overloaded
from serve_app.ingress.services.session_limit import SessionCounts, max_sessions
from serve_app.settings import Config, PoolConfig
from tests.deployments.waiting import until
from tests.ingress.house import built
from tests.ingress.socket import connected


async def test_one_more_session_than_the_limit_is_refused_until_another_ends() -> None:
    async with built(max_sessions_per_tenant=1) as house:
        async with connected(house) as first:
            first.send(echo=1)
            assert (await first.hear())["echo"] == 1
            async with connected(house) as second:
                refusal = await second.hear()
                assert await second.end() == 1013
            assert refusal["type"] == "x-fal-error"
            assert refusal["error"] == "CONCURRENT_REQUESTS_LIMIT"
            assert "1 open realtime sessions" in refusal["reason"]
            first.send(echo=2)  # it is not disturbed
            assert (await first.hear())["echo"] == 2
        await until(lambda: not house.services.session_counts._open)
        async with connected(house) as third:
            third.send(echo=3)
            assert (await third.hear())["echo"] == 3


def test_sessions_of_other_tenants_and_pools_do_not_count() -> None:
    counts = SessionCounts()
    with counts.count("studio", "ann", 1):
        with counts.count("studio", "bob", 1), counts.count("video", "ann", 1):
            pass
        with pytest.raises(Overloaded), counts.count("studio", "ann", 1):
            pass
        with counts.count("studio", "ann", None):
            pass
    with counts.count("studio", "ann", 1):
        pass


@pytest.mark.parametrize(
    ("pool", "most"),
    [
        (PoolConfig(families=("flux",)), 1),
        (PoolConfig(families=("flux",), slots=1), 1),
        (PoolConfig(families=("flux",), num_gpus=1), 4),
        (PoolConfig(families=("flux",), slots=5, max_replicas=3), 7),
    ],
)
def test_the_default_is_half_of_the_slots_that_a_pool_can_have(pool: PoolConfig, most: int) -> None:
    assert max_sessions(Config(gpus=0, pools={"studio": pool}), "studio") == most
    assert max_sessions(Config(gpus=0, pools={"studio": pool}), "other") is None
    told = Config(gpus=0, pools={"studio": pool}, max_sessions_per_tenant=9)
    assert max_sessions(told, "studio") == 9
