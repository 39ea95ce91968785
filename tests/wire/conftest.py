"""Where the wire tests find a Darkroom: here over fakes; another conftest can point the same tests
at a real cluster by overriding ``darkroom_url`` and ``darkroom_key``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wire.served import Address, served


@pytest.fixture(scope="session")
def darkroom_address() -> Iterator[Address]:
    with served() as address:
        yield address


@pytest.fixture
def darkroom_url(darkroom_address: Address) -> str:
    return darkroom_address.url


@pytest.fixture
def darkroom_key(darkroom_address: Address) -> str:
    return darkroom_address.key
