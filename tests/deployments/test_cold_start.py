"""What those see who wait for weights, and what waiting does not cost them."""

from itertools import pairwise

import pytest

from deployments.families import FAMILIES
from deployments.family import WarmsUp, load_families
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import ReplicaStage
from serve_app.domain.progress import Progress, Stage
from tests.deployments.conftest import PROBE
from tests.deployments.waiting import until
from tests.engine.tiny import save_tiny_flux, tiny_flux, tiny_sdxl

pytestmark = pytest.mark.engine

GB = 10**9


def slow(name="slow", **options):
    return Endpoint(name, "probe", Weights("slow"), "probe", options=options)


COMING = slow(download_bytes=10 * GB, download_s=1.0, load_s=0.5)


def told(rig, held):
    """The progress that reports told, each once."""
    every = [p for _, report in rig.port.reports for of, p in report.progress if of == held]
    return [one for one, before in zip(every, [None, *every], strict=False) if one != before]


async def test_all_who_wait_see_the_download_and_the_load(rig):
    first = rig.offer("one", endpoint=COMING)
    second = rig.offer("two", endpoint=slow("same", load_s=100))  # the first to come loads
    await rig.outcome(first)
    await rig.outcome(second)
    for held in (first, second):
        seen = told(rig, held)
        loading = [p for p in seen if p.stage is Stage.DOWNLOADING]
        assert len(loading) > 2
        assert {p.steps for p in loading} == {10 * GB}
        assert [p.step for p in loading] == sorted(p.step for p in loading)
        after = seen[seen.index(loading[-1]) + 1]
        assert after == Progress(Stage.LOADING)
    words = [report.detail for _, report in rig.port.reports]
    assert any(each.startswith("downloading slow") and "of 10.0 GB" in each for each in words)


async def test_a_lease_is_renewed_all_through_a_long_load(rig):
    """As with one of ten minutes: a report in every interval, each within the lease's time."""
    held = rig.offer("one", endpoint=slow(load_s=1.5))
    assert (await rig.outcome(held)).succeeded
    gaps = [after - before for before, after in pairwise(rig.port.renewals(held))]
    assert len(gaps) >= 4
    assert max(gaps) < 2.0  # of the 5 s that the lease lasts


async def test_a_cancel_during_a_load_frees_the_slot_at_once(make_rig):
    rig = await make_rig(slots=1)
    assert (await rig.outcome(rig.offer("warm", steps=1))).succeeded
    held = rig.offer("one", endpoint=slow(load_s=8.0))
    await rig.port.until(lambda: Progress(Stage.LOADING) in told(rig, held))
    rig.port.cancelled.add(held)
    assert (await rig.outcome(held)).failure.code == "cancelled"
    assert (await rig.outcome(rig.offer("two", steps=1))).succeeded
    assert rig.workshop.residency.loading()  # It had not come to its end.


async def test_a_replica_says_what_it_loads_before_it_is_ready(make_rig):
    rig = await make_rig(preload=(COMING, PROBE), start_interval_s=0.05)
    await rig.port.until(lambda: rig.port.asks)
    assert {each.stage for each in rig.port.presences} == {ReplicaStage.STARTING}
    details = [each.detail for each in rig.port.presences]
    downloading = [each for each in details if each.startswith("downloading slow, ")]
    assert all(each.endswith(" of 10.0 GB") for each in downloading)
    assert "loading slow" in details[details.index(downloading[-1]) :]
    assert set(rig.port.asks[0].hot) == {"slow", "probe"}
    assert rig.port.asks[0].detail == ""


async def test_the_first_request_waits_for_a_generation_that_warms_up(make_rig, tmp_path):
    rig = await make_rig(warms_up=True)
    weights = Weights(str(save_tiny_flux(tmp_path)))
    tiny = Endpoint("tiny", "flux", weights, "s", options={"native_size": 64})
    held = rig.offer(
        "one",
        endpoint=tiny,
        prompt="a red circle",
        image_size={"width": 64, "height": 64},
        num_inference_steps=2,
        guidance_scale=3.5,
    )
    assert (await rig.outcome(held)).succeeded
    stages = [each.stage for each in told(rig, held)]
    assert stages.index(Stage.LOADING) < stages.index(Stage.WARMING_UP)


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


async def test_a_failed_load_ends_the_waiting_and_the_telling(rig):
    missing = Endpoint("gone", "probe", Weights("missing"), "probe")
    assert (await rig.outcome(rig.offer("one", endpoint=missing))).failure is not None
    await until(lambda: not rig.workshop.loading)
