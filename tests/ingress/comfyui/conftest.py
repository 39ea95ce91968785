"""An installation with an endpoint for any workflow, and a replica that runs graphs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.ingress.comfyui.comfy import CATALOG, GraphReplica, Place
from tests.ingress.house import build_house


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with build_house(catalog=CATALOG, replica=False) as house:
        replica = GraphReplica(house.queue, house.storage)
        await replica.start()
        async with house.client() as client, house.client(house.other_key) as other:
            try:
                yield Place(house, replica, client, other)
            finally:
                await replica.aclose()
