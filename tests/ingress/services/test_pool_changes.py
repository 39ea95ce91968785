"""Requests that are queued in a pool which was removed or renamed."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import pytest

from serve_app.domain.workflows.definition import POOL as WORKFLOWS
from serve_app.ingress.services.pool_changes import PoolChanges
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.settings import PoolConfig
from tests.captured_logs import CapturedLogs
from tests.fakes.clock import FakeClock
from tests.ingress.house import House, build_house
from tests.queue.requests import TENANT, new

ENDPOINT = "test/probe"
HERE, ELSEWHERE = "this-cluster", "another-cluster"
PROBES = PoolConfig(families=("probe",))


@asynccontextmanager
async def house(**pools: PoolConfig) -> AsyncGenerator[House]:
    async with build_house(pools=pools, replica=False) as ingress:
        yield ingress


def changes(
    house: House, led: Collection[tuple[str, str]] = (), gone_s: float = 0.0
) -> PoolChanges:
    async def those() -> Collection[tuple[str, str]]:
        return led

    return PoolChanges(house.services, HERE, those, gone_s)


async def submit_to_pool(house: House, pool: str, endpoint: str = ENDPOINT) -> str:
    return (await house.queue.submit(new(pool=pool, endpoint=endpoint))).id


async def pool_of(house: House, request_id: str) -> str:
    return (await house.queue.current(TENANT, request_id)).pool


async def test_requests_of_a_pool_that_is_gone_go_to_the_one_that_has_their_family() -> None:
    async with house(probes=PROBES) as ingress:
        request = await submit_to_pool(ingress, "studio")
        await changes(ingress).look()
        assert await pool_of(ingress, request) == "probes"


async def test_requests_go_to_the_pool_of_the_family_that_their_entry_names_now() -> None:
    """Nothing ran them: the replicas of their pool hand back what they have no family for."""
    async with house(images=PoolConfig(families=("flux",)), probes=PROBES) as ingress:
        request = await submit_to_pool(ingress, "images")
        stays = await submit_to_pool(ingress, "images", "test/not-there")
        await changes(ingress, [(ELSEWHERE, "images")]).look()  # which may have its own families
        assert await pool_of(ingress, request) == "images"
        clock = ingress.services.clock = FakeClock()
        moving = changes(ingress, [(HERE, "images"), (HERE, "probes")], gone_s=60)
        await moving.look()
        assert await pool_of(ingress, request) == "images"
        clock.advance(60)
        await moving.look()
        assert [await pool_of(ingress, id_) for id_ in (request, stays)] == ["probes", "images"]


async def test_a_pool_that_takes_overflow_has_no_queue_any_more() -> None:
    more = PoolConfig(families=("probe",), overflow_of="probes")
    async with house(probes=PROBES, more=more) as ingress:
        request = await submit_to_pool(ingress, "more")
        await changes(ingress, [(HERE, "more"), (HERE, "probes")]).look()
        assert await pool_of(ingress, request) == "probes"


@pytest.mark.parametrize(
    ("pool", "led"),
    [
        ("second", []),  # configured, though not for this endpoint any more
        ("studio", [(ELSEWHERE, "studio")]),
        ("studio", [(HERE, "studio")]),  # another ingress of this cluster has other settings
        (WORKFLOWS, []),
    ],
)
async def test_requests_of_a_pool_that_is_there_stay(
    pool: str, led: Collection[tuple[str, str]]
) -> None:
    async with house(probes=PROBES, second=PROBES) as ingress:
        request = await submit_to_pool(ingress, pool)
        await changes(ingress, led).look()
        assert await pool_of(ingress, request) == pool


async def test_a_pool_that_comes_back_keeps_its_requests() -> None:
    async with house(probes=PROBES) as ingress:
        clock = ingress.services.clock = FakeClock()
        request, moving = await submit_to_pool(ingress, "studio"), changes(ingress, gone_s=60)
        await moving.look()
        clock.advance(59)
        ingress.services.pools = PoolMap({"probes": PROBES, "studio": PROBES})
        await moving.look()
        ingress.services.pools = PoolMap({"probes": PROBES})
        await moving.look()
        clock.advance(59)
        await moving.look()
        assert await pool_of(ingress, request) == "studio"
        clock.advance(1)
        await moving.look()
        assert await pool_of(ingress, request) == "probes"


async def test_requests_that_no_pool_runs_are_named_once_and_stay(
    caplog: CapturedLogs,
) -> None:
    async with house(probes=PROBES) as ingress:
        unknown = await submit_to_pool(ingress, "studio", "test/not-there")
        other = await submit_to_pool(ingress, "studio", "fal-ai/flux/schnell")
        moving = changes(ingress)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                await moving.look()
        assert {await pool_of(ingress, request_id) for request_id in (unknown, other)} == {"studio"}
        assert len(caplog.messages) == 2
        assert all("wait in the pool studio, which is not configured" in x for x in caplog.messages)
