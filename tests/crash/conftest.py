"""Ingresses that reach PostgreSQL through a proxy, and the replicas and clients beside them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.queue.store.migrations import migrate
from tests.chaos.proxy import Proxy, before_postgres, through
from tests.crash.scene import Scene
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import (
    Ingress,
    conninfo,
    empty_tables,
    liveness,
    server,
    terms,
    until_stopped,
)

__all__ = ["conninfo", "empty_tables", "liveness", "server", "terms"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.crash)


@pytest.fixture
async def proxy(conninfo: str) -> AsyncIterator[Proxy]:
    proxy = before_postgres(conninfo)
    yield proxy
    await proxy.aclose()


@pytest.fixture
async def scene(
    conninfo: str,
    proxy: Proxy,
    terms: FakeTerms,
    liveness: FakeLiveness,
    chance: random.Random,
    tally_file: Path | None,
) -> AsyncIterator[Scene]:
    """The server of all tests, its proxy, and no ingress yet."""
    far = Ingress(through(conninfo, await proxy.start()), terms, liveness)
    near = Ingress(conninfo, terms, liveness)
    yield Scene(conninfo, proxy, near, far, liveness, chance, tally_file)
    proxy.heal()
    await far.aclose()
    await near.aclose()


@pytest.fixture
def own_dir(tmp_path: Path) -> Iterator[Path]:
    """The data directory of a server that a test may kill."""
    yield tmp_path
    until_stopped(ClusterFiles(tmp_path))


@pytest.fixture
async def own_scene(
    own_dir: Path,
    terms: FakeTerms,
    liveness: FakeLiveness,
    chance: random.Random,
    tally_file: Path | None,
) -> AsyncIterator[Scene]:
    """The same on a server of its own, in ``own_dir``, whose commits wait for the disk."""
    embedded = EmbeddedPostgres(own_dir, grace_s=0.2)
    conninfo = await embedded.start()
    await migrate(conninfo)
    proxy = before_postgres(conninfo)
    far = Ingress(through(conninfo, await proxy.start()), terms, liveness)
    near = Ingress(conninfo, terms, liveness)
    yield Scene(conninfo, proxy, near, far, liveness, chance, tally_file)
    proxy.heal()
    await far.aclose()
    await near.aclose()
    await proxy.aclose()
    await embedded.aclose()
