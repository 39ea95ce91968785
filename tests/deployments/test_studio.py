"""Two families in one process, with memory for the weights of only one."""

import asyncio

import pytest

from deployments.engine.memory.placement import placed_by
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.lease import LeaseKey
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

COMMON = {
    "prompt": "a red circle",
    "image_size": {"width": 16, "height": 16},
    "num_inference_steps": 2,
    "guidance_scale": 3.5,
}


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory):
    by_family = {}
    for family, pipeline in (("flux", tiny_flux()), ("sdxl", tiny_sdxl())):
        folder = tmp_path_factory.mktemp(family)
        pipeline.save_pretrained(folder, safe_serialization=True)
        by_family[family] = Endpoint(family, family, Weights(str(folder)), family)
    return by_family


@pytest.fixture
def budget():
    """Enough for either of them, but not for both."""
    sizes = [placed_by(None, pipeline).device_bytes for pipeline in (tiny_flux(), tiny_sdxl())]
    return max(sizes) + min(sizes) // 2


@pytest.mark.long
async def test_alternating_requests_all_end(make_rig, endpoints, budget, caplog):
    caplog.set_level("INFO")
    rig = await make_rig(weights_bytes=budget)
    keys = []
    for number in range(8):
        endpoint = endpoints["sdxl" if number % 2 else "flux"]
        lease = rig.lease(f"r{number}", endpoint, **COMMON)
        keys.append(lease.key)
        rig.port.offer(lease)
    async with asyncio.timeout(240):
        outcomes = [await rig.outcome(key) for key in keys]
    assert [outcome.failure for outcome in outcomes] == [None] * 8
    assert "Evicting" in caplog.text


async def test_a_request_that_is_cancelled_while_it_waits_for_room_keeps_no_one_waiting(
    make_rig, endpoints, budget
):
    rig = await make_rig(weights_bytes=budget)
    long = rig.lease("long", endpoints["flux"], **{**COMMON, "num_inference_steps": 3000})
    rig.port.offer(long)
    await rig.wait_for_report(long.key)
    rig.port.offer(rig.lease("waits", endpoints["sdxl"], **COMMON))
    waits = LeaseKey("waits", 1)
    await rig.port.until(lambda: waits in _renewed(rig))
    rig.port.cancelled.add(waits)
    assert (await rig.outcome(waits)).failure.code == "cancelled"
    short = rig.lease("short", endpoints["flux"], **COMMON)
    rig.port.offer(short)
    assert (await rig.outcome(short.key)).failure is None
    rig.port.cancelled.add(long.key)
    assert (await rig.outcome(long.key)).failure.code == "cancelled"


def _renewed(rig):
    return {renewal for _, report in rig.port.reports for renewal in report.renewals}
