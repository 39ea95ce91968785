"""Weights that warm targets ask a replica to hold."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.replica import keeper
from serve_app.domain.endpoint import Endpoint, StoreConfig, Weights
from serve_app.domain.lease import LeaseKey, Presence, Work
from tests.deployments.conftest import PROBE, MakeRig, Rig
from tests.fakes.lease_port import FakeLeasePort
from weights.source import OnProgress
from weights.store import Store

OTHER = Endpoint("other", "probe", Weights("other"), "probe")
GONE = Endpoint("gone", "probe", Weights("missing"), "probe")
OF_HUB = Endpoint("of-hub", "probe", Weights("house/small", "f" * 40), "probe")
ROOM_FOR_ONE = 6  # bytes; the weights of each have 4


class UndecidedPort(FakeLeasePort):
    """An ingress in whose pools warm targets stand, and that has not decided on this replica."""

    async def announce(self, presence: Presence) -> Work:
        await super().announce(presence)
        return Work()


class Disk(Store):
    """Disk of a node, from which other weights may evict those of the hub."""

    def __init__(self, folder: Path) -> None:
        super().__init__(StoreConfig(directory=folder))
        self.here: set[Weights] = set()
        self.uses = self.downloads = 0

    def is_here(self, weights: Weights) -> bool:
        return weights in self.here

    @contextmanager
    def open(self, weights: Weights, on_progress: OnProgress | None = None) -> Generator[Path]:
        del on_progress
        self.uses += 1
        self.downloads += weights not in self.here
        self.here.add(weights)
        yield self.directory


async def test_a_running_replica_loads_what_it_is_told_to_hold(make_rig: MakeRig) -> None:
    rig = await make_rig()
    await rig.port.until(lambda: rig.port.asks)
    assert rig.port.asks[-1].hot == ()
    rig.port.keep = ((PROBE, "hot"), (OTHER, "host")), "1"
    await rig.port.until(lambda: set(rig.port.asks[-1].hot) == {"probe", "other"})
    assert rig.port.asks[-1].kept_version == "1"


async def test_weights_held_on_disk_count_as_used_and_come_back_after_their_eviction(
    make_rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(keeper, "USE_DISK_EVERY_S", 0.02)
    disk = Disk(tmp_path)
    port = FakeLeasePort(ask_wait_s=0.05, keep=(((OF_HUB, "disk"),), "1"))
    rig = await make_rig(port=port, store=disk)
    await rig.port.until(lambda: rig.port.asks and rig.port.asks[-1].on_disk == ("of-hub",))
    await rig.port.until(lambda: disk.uses > 3)
    assert disk.downloads == 1
    disk.here.clear()
    await rig.port.until(lambda: disk.downloads == 2)
    await rig.port.until(lambda: rig.port.asks[-1].on_disk == ("of-hub",))


async def test_it_says_what_it_cannot_hold_until_that_is_no_longer_wanted(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(port=FakeLeasePort(ask_wait_s=0.2, keep=(((GONE, "hot"),), "1")))
    await rig.port.until(lambda: rig.port.asks)
    ((endpoint, why),) = rig.port.asks[-1].not_kept
    assert endpoint == "gone"
    assert "missing" in why
    rig.port.keep = None
    await rig.port.until(lambda: rig.port.asks[-1].kept_version == "")
    assert rig.port.asks[-1].not_kept == ()


async def test_kept_weights_are_evicted_for_a_request_only_and_come_back(
    make_rig: MakeRig,
) -> None:
    """A replica with room for one of them."""
    port = FakeLeasePort(ask_wait_s=0.2, keep=(((PROBE, "hot"),), "1"))
    rig = await make_rig(port=port, weights_bytes=ROOM_FOR_ONE)
    await rig.port.until(lambda: rig.port.asks and rig.port.asks[-1].hot == ("probe",))
    assert (await rig.outcome(rig.offer("one", endpoint=OTHER, steps=1))).succeeded
    await rig.port.until(lambda: rig.port.asks[-1].hot == ("probe",))


async def test_what_does_not_fit_beside_the_others_is_named_with_the_reason(
    make_rig: MakeRig,
) -> None:
    keep = ((PROBE, "hot"), (OTHER, "hot")), "1"
    rig = await make_rig(port=FakeLeasePort(ask_wait_s=0.2, keep=keep), weights_bytes=ROOM_FOR_ONE)
    await rig.port.until(lambda: rig.port.asks)
    assert rig.port.asks[-1].hot == ("probe",)
    ((endpoint, why),) = rig.port.asks[-1].not_kept
    assert endpoint == "other"
    assert "leaves" in why


async def test_a_replica_starts_without_a_decision_that_does_not_come(make_rig: MakeRig) -> None:
    rig = await make_rig(port=UndecidedPort(ask_wait_s=0.2))
    assert (await rig.outcome(rig.offer("one", steps=1))).succeeded


# What runs next


async def running(rig: Rig, endpoint: Endpoint = PROBE) -> LeaseKey:
    """A request that runs until it is cancelled."""
    key = rig.offer("long", endpoint=endpoint, steps=10**6)
    await rig.wait_for_report(key)
    return key


async def test_what_runs_next_is_loaded_while_the_current_request_runs(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=1)
    key = await running(rig)
    rig.port.upcoming = (PROBE, OTHER), "1"
    await rig.port.until(lambda: "other" in rig.port.asks[-1].hot)
    assert rig.port.asks[-1].upcoming == "1"
    assert key in rig.port.asks[-1].leases
    assert set(rig.resources.loaded_endpoints) == {"probe", "other"}


@pytest.mark.long
async def test_what_runs_next_evicts_nothing_that_runs_or_is_needed_or_kept(
    make_rig: MakeRig,
) -> None:
    """A replica with room for one of them."""
    rig = await make_rig(slots=1, weights_bytes=ROOM_FOR_ONE)
    await running(rig)
    rig.port.upcoming = (OTHER,), "1"
    await rig.port.until(lambda: dict(rig.port.asks[-1].not_kept).keys() == {"other"})
    assert rig.port.asks[-1].hot == ("probe",)
    rig.port.upcoming = (), ""
    await rig.port.until(lambda: rig.port.asks[-1].upcoming == "")


async def test_a_replica_that_loads_nothing_beforehand_says_so(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=1, prefetch=False)
    await rig.port.until(lambda: rig.port.asks)
    assert rig.port.asks[-1].upcoming is None


async def test_what_cannot_be_loaded_beforehand_fails_only_its_own_request(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(slots=2)
    rig.port.upcoming = (GONE, OTHER), "1"
    await rig.port.until(lambda: rig.port.asks and "other" in rig.port.asks[-1].hot)
    ((endpoint, why),) = rig.port.asks[-1].not_kept
    assert endpoint == "gone"
    assert "missing" in why
    assert (await rig.outcome(rig.offer("one", endpoint=OTHER, steps=1))).succeeded
    assert not (await rig.outcome(rig.offer("two", endpoint=GONE, steps=1))).succeeded
