"""Everything at once, by chance."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from serve_app.domain.webhook import Webhook
from serve_app.postgres import database
from tests.chaos.proxy import Lose
from tests.chaos.replica import Keeper
from tests.crash.scene import Clients, Scene
from tests.crash.test_database import postmaster
from tests.queue.requests import TENANT

BLOWS = 15
WEBHOOK = Webhook("https://receiver.example/", "http://darkroom.example")
WEBHOOKS = (None, WEBHOOK)


async def test_whatever_breaks_each_accepted_request_ends_once_and_is_billed_once(
    own_scene: Scene, own_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_LIMIT_S", 1.0)
    scene, chance = own_scene, own_scene.chance
    await scene.ingresses(scene.far, scene.far, scene.near)
    async with scene.replicas(3, steps=4, step_s=0.05) as keeper:
        storm = Storm(scene, keeper, own_dir)
        # Once, and not at the end: after it the queue ends no lease for a while.
        order = chance.choices(storm.blows, k=BLOWS)
        order.insert(chance.randrange(BLOWS // 2), storm.kill_server)
        async with (
            Clients(scene, 3, pause_s=0.05, webhook=lambda: chance.choice(WEBHOOKS)) as clients,
            Clients(scene, 3, pause_s=0.05, webhook=WEBHOOK, reuse_digest=wish),
        ):
            await clients.go_on(5)
            for blow in order:
                await blow()
                await asyncio.sleep(chance.uniform(0.05, 0.5))
                storm.calm_a_little()
            storm.calm()
            await clients.go_on(5)
        tally = await scene.check()
    assert tally.accepted > BLOWS
    assert any(request.reuses for request in scene.house.history.seen)


WISHED = itertools.count()


def wish() -> bytes:
    """Four requests in a row have the same, and there is always a new one to be made."""
    return (next(WISHED) // 4).to_bytes(32, "big")


class Storm:
    def __init__(self, scene: Scene, keeper: Keeper, data_dir: Path) -> None:
        self._scene = scene
        self._chance = scene.chance
        self._keeper = keeper
        self._data_dir = data_dir
        self.blows = [
            self.reset, self.delay, self.blackhole, self.death, self.freeze, self.cancel, self.lose,
        ]  # fmt: skip

    async def reset(self) -> None:
        self._scene.proxy.reset()

    async def delay(self) -> None:
        self._scene.proxy.delay_s = self._chance.uniform(0.0, 0.1)

    async def blackhole(self) -> None:
        self._scene.proxy.blackhole()

    async def death(self) -> None:
        if self._keeper.alive:
            self._chance.choice(self._keeper.alive).die()

    async def freeze(self) -> None:
        if self._keeper.alive:
            self._chance.choice(self._keeper.alive).freeze()

    async def cancel(self) -> None:
        id_ = self._chance.choice(sorted(self._scene.house.history.accepted))
        await self._scene.house.insist(lambda queue: queue.cancel(TENANT, id_))

    async def lose(self) -> None:
        latest = max(self._scene.house.history.accepted)
        self._scene.proxy.lose(latest.encode(), self._chance.choice([*Lose]))

    async def kill_server(self) -> None:
        self._scene.house.history.server_crashed = True
        postmaster(self._data_dir).kill()

    def calm_a_little(self) -> None:
        if self._chance.random() < 0.5:
            self._scene.proxy.heal()
        for replica in self._keeper.replicas:
            if self._chance.random() < 0.3:
                replica.thaw()

    def calm(self) -> None:
        self._scene.proxy.heal()
        for replica in self._keeper.replicas:
            replica.thaw()
