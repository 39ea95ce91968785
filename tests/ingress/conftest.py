from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from blockbuster import blockbuster_ctx

from tests.ingress.house import House, build_house


@pytest.fixture(autouse=True)
def nothing_blocks() -> Iterator[None]:
    """Fail a test in which a call blocks the event loop."""
    with blockbuster_ctx("serve_app"):
        yield


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house() as house:
        yield house


@pytest.fixture
async def idle() -> AsyncIterator[House]:
    """House without a replica: requests stay queued."""
    async with build_house(replica=False) as house:
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client() as client:
        yield client


@pytest.fixture
async def idle_client(idle: House) -> AsyncIterator[httpx.AsyncClient]:
    async with idle.client() as client:
        yield client
