"""Pre-flight answers of an ingress: who may look, how long an answer is kept, and on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from serve_app.catalog.catalog import load
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.preflight import Download, HubState, MachineFacts
from serve_app.ingress.services.preflights import FRESH_S, WANTED_FRESH_S, Preflights
from serve_app.tenants.scopes import API
from tests.fakes.clock import FakeClock
from tests.ingress.house import DEMO, House, build_house

SDXS, SCHNELL = "darkroom/sdxs", "fal-ai/flux/schnell"
CATALOG = load(None, demo=True, demo_dir=DEMO, families=("flux", "generic"))
SIZE = 1_800_000_000
HERE = Download(SIZE, 0, HubState.NOT_NEEDED)
AWAY = Download(SIZE, SIZE, HubState.GIVES)


@dataclass
class Surroundings:
    """What a look finds."""

    download: Download = AWAY
    nodes: int = 1
    asked: list[str] = field(default_factory=list)

    def look(self, wanted: Sequence[Endpoint]) -> Mapping[str, Download]:
        self.asked += [endpoint.id for endpoint in wanted]
        return {endpoint.id: self.download for endpoint in wanted}

    def preflights(self, clock: FakeClock) -> Preflights:
        machine = MachineFacts(0, 16 * 10**9, 100 * 10**9)
        return Preflights(self.look, lambda: machine, lambda: self.nodes, clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def around() -> Surroundings:
    return Surroundings()


async def answer(house: House, key: str, endpoint: str = SDXS) -> dict[str, Any]:
    async with house.client(key=key) as client:
        query = {"endpoint_id": endpoint, "expand": "preflight"}
        (model,) = (await client.get("/v1/models", params=query)).json()["models"]
        return dict(model["darkroom"]["preflight"])


async def test_operators_get_what_a_look_at_machine_and_hub_found(
    around: Surroundings, clock: FakeClock
) -> None:
    async with build_house(catalog=CATALOG) as house:
        house.services.preflights = around.preflights(clock)
        preflight = await answer(house, house.key)
        assert (preflight["server"], preflight["fits"]) == ("real", True)
        assert preflight["machine"] == {"device_gb": 0.0, "memory_gb": 16.0, "free_gb": 100.0}
        assert preflight["download"]["missing_bytes"] == SIZE
        demo = await answer(house, house.key, SCHNELL)
        assert (demo["server"], demo["fits"]) == ("demo", False)
        assert (
            "needs a GPU with 12 GB or more, and this machine has none" in demo["sentences"]["fits"]
        )


async def test_others_get_what_the_entry_says_and_no_look_is_taken(
    around: Surroundings, clock: FakeClock
) -> None:
    async with build_house(catalog=CATALOG) as house:
        house.services.preflights = around.preflights(clock)
        key = await house.services.identity.keys.create("other", scopes=frozenset({API}))
        preflight = await answer(house, str(key))
    assert preflight["machine"] == {"device_gb": None, "memory_gb": None, "free_gb": None}
    assert preflight["sentences"]["download"] == "about 1.8 GB"
    assert around.asked == []


async def test_an_answer_is_kept_and_looked_for_again_sooner_while_weights_are_missing(
    around: Surroundings, clock: FakeClock
) -> None:
    preflights = around.preflights(clock)
    entry = CATALOG.get_listed(SDXS)

    async def missing() -> int | None:
        (preflight,) = await preflights.of([entry], {}, lambda _: None, looks=True)
        return preflight.download.missing_bytes

    assert [await missing(), await missing()] == [SIZE, SIZE]
    assert around.asked == [SDXS]
    around.download = HERE
    clock.advance(WANTED_FRESH_S)
    assert await missing() == 0
    clock.advance(WANTED_FRESH_S)
    await missing()
    assert around.asked == [SDXS] * 2
    clock.advance(FRESH_S)
    await missing()
    assert around.asked == [SDXS] * 3


async def test_on_a_cluster_nobody_knows_the_disks_and_replicas_name_their_gpus(
    around: Surroundings, clock: FakeClock
) -> None:
    around.nodes = 3
    entry = load(None, demo=False, demo_dir=DEMO).get_listed(SCHNELL)
    preflights = around.preflights(clock)
    (preflight,) = await preflights.of([entry], {}, lambda _: None, looks=True)
    assert preflight.fits is None
    assert (preflight.download.total_bytes, preflight.download.missing_bytes) == (SIZE, None)
    (preflight,) = await preflights.of([entry], {SCHNELL: 24 * 10**9}, lambda _: 0.52, looks=True)
    assert preflight.fits
    assert preflight.sentences()["time"] == "0.52 s for each image, measured here"


async def test_a_demo_s_time_is_not_the_real_model_s(
    around: Surroundings, clock: FakeClock
) -> None:
    (preflight,) = await around.preflights(clock).of(
        [CATALOG.get_listed(SCHNELL)], {}, lambda _: 0.4, looks=True
    )
    assert preflight.needs.seconds is None
