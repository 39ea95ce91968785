"""Exchange of weights between nodes: who finds whom, through the database of the installation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from deployments.replica import weight_peers
from deployments.replica.weight_peers import PeerIdentity, WeightExchange
from serve_app.domain.endpoint import StoreConfig
from serve_app.domain.errors import Unavailable
from serve_app.domain.lease import WeightOffer
from serve_app.postgres.database import Database
from serve_app.postgres.weight_peers import PostgresWeightPeers
from serve_app.telemetry.clock import SystemClock
from tests.queue.database import conninfo, server
from tests.weights.conftest import (
    COMMIT,
    NAME,
    WEIGHTS,
    MakeStore,
    hub,
    make_store,
    repository,
    waits,
)
from weights.hub import Hub
from weights.store import Store

__all__ = ["conninfo", "hub", "make_store", "repository", "server", "waits"]

UNET = "unet/diffusion_pytorch_model.safetensors"
FOUND_S = 60.0

Join = Callable[..., Awaitable[WeightExchange]]


@pytest.fixture
async def directory(conninfo: str) -> AsyncIterator[PostgresWeightPeers]:
    database = Database(conninfo)
    await database.start()
    try:
        yield PostgresWeightPeers(database)
    finally:
        await database.aclose()


@pytest.fixture
async def join(
    directory: PostgresWeightPeers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Join]:
    """``await join(node)``: a replica on the node, with the weights in its directory."""
    monkeypatch.setattr(weight_peers, "LOOK_EVERY_S", 0.05)
    joined: list[WeightExchange] = []

    async def start(node: str) -> WeightExchange:
        identity = PeerIdentity(f"replica-{len(joined)}", node, "127.0.0.1")
        config = StoreConfig(directory=tmp_path / node, peers=2)
        exchange = WeightExchange(directory, identity, config, SystemClock())
        joined.append(exchange)
        await exchange.start()
        return exchange

    yield start
    for member in joined:
        await member.aclose()


async def has_urls(exchange: WeightExchange) -> bool:
    return bool((await asyncio.to_thread(exchange.find, f"{NAME}@{COMMIT}")).urls)


async def until_found(exchange: WeightExchange) -> None:
    async with asyncio.timeout(FOUND_S):
        while not await has_urls(exchange):  # noqa: ASYNC110 another process's row
            await asyncio.sleep(0.05)


def pull(store: Store) -> Path:
    with store.open(WEIGHTS) as folder:
        return folder


async def test_a_fresh_node_gets_what_another_node_has(
    join: Join, make_store: MakeStore, tmp_path: Path
) -> None:
    await asyncio.to_thread(pull, make_store(directory=tmp_path / "full"))
    await join("full")
    fresh = await join("fresh")
    await until_found(fresh)
    store = Store(
        StoreConfig(directory=tmp_path / "fresh"),
        lambda: Hub("http://127.0.0.1:9", tries=1),
        fresh.source,
    )
    folder = await asyncio.to_thread(pull, store)
    assert (folder / UNET).is_file()
    assert folder.is_relative_to(tmp_path / "fresh")


async def test_a_node_that_has_just_got_weights_is_found_too(
    join: Join, make_store: MakeStore, tmp_path: Path
) -> None:
    await join("first")
    second = await join("second")
    assert not await has_urls(second)
    await asyncio.to_thread(pull, make_store(directory=tmp_path / "first"))
    await until_found(second)


async def test_replicas_of_the_same_node_are_no_peers_and_closed_ones_neither(
    join: Join, make_store: MakeStore, tmp_path: Path
) -> None:
    await asyncio.to_thread(pull, make_store(directory=tmp_path / "full"))
    full, elsewhere, same = await join("full"), await join("elsewhere"), await join("full")
    await until_found(elsewhere)
    assert not await has_urls(same)
    for exchange in (full, same):
        await exchange.aclose()
    assert not await has_urls(elsewhere)


async def test_all_replicas_of_an_installation_have_one_key_that_no_other_has(
    directory: PostgresWeightPeers,
) -> None:
    offer = WeightOffer("some", "node", "http://127.0.0.1:1")
    keys = {await directory.offer_weights(offer) for _ in range(3)}
    assert len(keys) == 1
    assert all(len(key) == 32 for key in keys)


async def test_without_an_ingress_there_are_no_peers(tmp_path: Path) -> None:
    class Away:
        async def offer_weights(self, offer: WeightOffer) -> bytes:
            raise Unavailable("away")

        async def weight_peers(self, node_id: str, name: str) -> tuple[str, ...]:
            raise Unavailable("away")

    config = StoreConfig(directory=tmp_path, peers=2)
    identity = PeerIdentity("replica", "node", "127.0.0.1")
    exchange = WeightExchange(Away(), identity, config, SystemClock())
    await exchange.start()
    try:
        assert not await has_urls(exchange)
    finally:
        await exchange.aclose()
