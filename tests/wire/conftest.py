"""Fixtures of the wire tests, which run twice: over fakes behind real HTTP, and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.darkroom import Darkroom
from tests.wire.served import Address, serve


@pytest.fixture(
    scope="session", params=["fakes", pytest.param("cluster", marks=pytest.mark.cluster)]
)
def darkroom_address(request: pytest.FixtureRequest) -> Iterator[Address]:
    if request.param == "fakes":
        with serve(deliver=True, allow_private_webhooks=True) as address:
            yield address
        return
    darkroom: Darkroom = request.getfixturevalue("darkroom")
    darkroom.all_ready()
    yield Address(darkroom.url, darkroom.key)


@pytest.fixture
def darkroom_url(darkroom_address: Address) -> str:
    return darkroom_address.url


@pytest.fixture
def darkroom_key(darkroom_address: Address) -> str:
    return darkroom_address.key
