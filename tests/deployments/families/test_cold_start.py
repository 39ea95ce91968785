"""Cold starts: what waiting users see, and that waiting does no harm."""

import asyncio
import threading
from dataclasses import replace
from itertools import pairwise

import pytest

from deployments.families.base import WarmsUp, load_families
from deployments.families.registry import FAMILIES
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import ReplicaStage
from serve_app.domain.progress import Progress, Stage, from_plain
from tests.deployments.conftest import PROBE
from tests.deployments.waiting import until
from tests.engine.tiny import save_tiny_flux, tiny_flux, tiny_sdxl
from tests.fakes.family import ProbeFamily
from tests.fakes.lease_port import FakeLeasePort
from tests.weights.conftest import WEIGHTS, hub, make_store, repository, store, waits

__all__ = ["hub", "make_store", "repository", "store", "waits"]

pytestmark = pytest.mark.engine

UNET = "unet/diffusion_pytorch_model.safetensors"


def slow(name="slow", **options):
    return Endpoint(name, "probe", Weights("slow"), "probe", options=options)


COMING = Endpoint("coming", "probe", WEIGHTS, "probe", options={"load_s": 0.5})


@pytest.fixture
def halfway(hub):
    """Pause the hub in the middle of a file until ``hub.go``."""
    hub.hold_after[UNET] = 100_000
    yield hub
    hub.go.set()


class HeldProbe(ProbeFamily):
    """Loads an endpoint with the option ``held`` once it may."""

    may = threading.Event()

    def load(self, endpoint, device):
        assert not endpoint.options.get("held") or self.may.wait(120)
        return super().load(endpoint, device)


HELD = f"{__name__}:HeldProbe"


@pytest.fixture
def load():
    """Until it is set, ``HeldProbe`` waits."""
    HeldProbe.may.clear()
    yield HeldProbe.may
    HeldProbe.may.set()


def reports(rig, lease_key):
    """Distinct progress values of the reports."""
    every = [p for _, report in rig.port.reports for of, p in report.progress if of == lease_key]
    return [
        current for current, before in zip(every, [None, *every], strict=False) if current != before
    ]


async def test_all_who_wait_see_the_download_and_the_load(make_rig, halfway, store):
    rig = await make_rig(store=store)
    both = rig.offer("one", endpoint=COMING), rig.offer("two", endpoint=replace(COMING, id="same"))

    def downloading(lease_key):
        return [p for p in reports(rig, lease_key) if p.stage is Stage.DOWNLOADING and p.step > 0]

    await rig.port.until(lambda: all(map(downloading, both)))
    assert all(p.step < p.steps > 550_000 for lease_key in both for p in downloading(lease_key))
    assert any(r.detail.startswith("downloading coming, 0.0 of") for _, r in rig.port.reports)
    (loading,) = from_plain(next(r.loading for _, r in reversed(rig.port.reports) if r.loading))
    assert set(loading.endpoints) == {"coming", "same"}
    assert 0 < loading.share < 1
    halfway.go.set()
    for key in both:
        assert (await rig.outcome(key)).succeeded
        seen = reports(rig, key)
        assert Progress(Stage.LOADING) in seen[seen.index(downloading(key)[-1]) :]


async def test_a_download_has_no_slot_and_what_is_loaded_is_served_meanwhile(
    make_rig, halfway, store
):
    rig = await make_rig(store=store, slots=1)
    assert (await rig.outcome(rig.offer("warm", steps=1))).succeeded
    key = rig.offer("one", endpoint=COMING)
    await rig.port.until(lambda: any(ask.coming == ("coming",) for ask in rig.port.outstanding))
    (pending,) = rig.port.outstanding
    assert (pending.slots, pending.leases) == (1, (key,))
    for name in ("two", "three"):
        assert (await rig.outcome(rig.offer(name, steps=1))).succeeded
    halfway.go.set()
    assert (await rig.outcome(key)).succeeded
    await rig.port.until(lambda: rig.port.asks[-1].coming == ())


async def test_what_lies_on_the_disk_is_loaded_beside_a_download(make_rig, halfway, store):
    rig = await make_rig(store=store, slots=2)
    key = rig.offer("one", endpoint=COMING)
    await rig.port.until(lambda: any(ask.coming for ask in rig.port.asks))
    assert (await rig.outcome(rig.offer("two", endpoint=slow(load_s=0.1)))).succeeded
    halfway.go.set()
    assert (await rig.outcome(key)).succeeded


async def test_a_lease_is_renewed_all_through_a_long_load(make_rig, load):
    """A scaled-down load of ten minutes: a report in every interval, within the lease's time."""
    rig = await make_rig(probe=HELD)
    key = rig.offer("one", endpoint=slow(held=True))
    await rig.port.until(lambda: len(rig.port.renewals(key)) >= 8)
    load.set()
    assert (await rig.outcome(key)).succeeded
    gaps = [after - before for before, after in pairwise(rig.port.renewals(key))]
    assert max(gaps) < 5.0  # so long does a lease last


async def test_a_cancel_during_a_load_frees_the_slot_at_once(make_rig, load):
    rig = await make_rig(slots=1, probe=HELD)
    assert (await rig.outcome(rig.offer("warm", steps=1))).succeeded
    key = rig.offer("one", endpoint=slow(held=True))
    await rig.port.until(lambda: Progress(Stage.LOADING) in reports(rig, key))
    rig.port.cancelled.add(key)
    assert (await rig.outcome(key)).failure.code == "cancelled"
    assert (await rig.outcome(rig.offer("two", steps=1))).succeeded
    assert rig.resources.residency.loading()  # It has not ended.


async def test_a_replica_says_what_it_loads_before_it_is_ready(make_rig, halfway, store):
    port = FakeLeasePort(ask_wait_s=1.0, keep=(((COMING, "hot"), (PROBE, "hot")), "1"))
    starting = asyncio.create_task(make_rig(port=port, start_interval_s=0.05, store=store))

    def said(beginning):
        return any(presence.detail.startswith(beginning) for presence in port.presences)

    await port.until(lambda: said("downloading coming, "))
    assert port.asks == []
    halfway.go.set()
    await port.until(lambda: said("loading coming"))
    await starting
    await port.until(lambda: port.asks)
    assert {presence.stage for presence in port.presences} == {ReplicaStage.STARTING}
    assert set(port.asks[0].hot) == {"coming", "probe"}
    assert port.asks[0].detail == ""


async def test_weights_are_handed_over_after_a_generation_that_warms_them_up(make_rig, tmp_path):
    rig = await make_rig(warms_up=True)
    weights = Weights(str(save_tiny_flux(tmp_path)))
    tiny = Endpoint("tiny", "flux", weights, "s", options={"native_size": 64})
    stages = []
    # Called without a request, because no request would show what happens between two reports.
    handle = rig.resources.acquire(
        load_families(FAMILIES)["flux"], tiny, lambda progress: stages.append(progress.stage)
    )
    await asyncio.wrap_future(handle.future)
    rig.resources.residency.release(handle)
    assert [*dict.fromkeys(stages)] == [Stage.LOADING, Stage.WARMING_UP]


@pytest.mark.parametrize(("name", "make"), [("flux", tiny_flux), ("sdxl", tiny_sdxl)])
@pytest.mark.parametrize("task", ["text-to-image", "image-to-image"])
def test_families_warm_up_with_one_step_at_their_usual_size(name, make, task):
    family = load_families(FAMILIES)[name]
    assert isinstance(family, WarmsUp)
    endpoint = Endpoint("e", name, Weights("w"), "s", options={"task": task})
    call = family.warm_up(endpoint, make())
    assert call.arguments["num_inference_steps"] == 1
    assert call.arguments["width"] * call.arguments["height"] >= 1024 * 768
    assert call.view is None


async def test_a_failed_load_ends_the_waiting_and_the_reports(rig):
    missing = Endpoint("gone", "probe", Weights("missing"), "probe")
    assert (await rig.outcome(rig.offer("one", endpoint=missing))).failure is not None
    await until(lambda: not rig.resources.loading)
