"""Requests for several outputs: each output equals that of a request with its seed alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Stage
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


async def run_request(
    rig: Rig, name: str, endpoint_id: str, **asked: Any
) -> tuple[Mapping[str, Any], Outcome]:
    lease = make_lease(rig, name, endpoint_id, **asked)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    assert outcome.output is not None
    return outcome.output, outcome


@pytest.mark.parametrize("endpoint_id", sample_params([FLUX, WAN, AUDIO], FLUX))
async def test_in_deterministic_mode_each_output_is_that_of_its_seed_bit_for_bit(
    make_rig: MakeRig, endpoint_id: str
) -> None:
    per_output = 1 if endpoint_id == FLUX else 2  # files of one output
    rig: Rig = await make_rig(call_timeout_s=20.0)
    output, both = await run_request(rig, "both", endpoint_id, alone=True, seeds=[11, 5])
    _, eleven = await run_request(rig, "eleven", endpoint_id, alone=True, seed=11)
    _, five = await run_request(rig, "five", endpoint_id, alone=True, seed=5)
    stored = rig.storage.objects
    for number in range(per_output):
        assert stored[f"both/{number}"] == stored[f"eleven/{number}"]
        assert stored[f"both/{per_output + number}"] == stored[f"five/{number}"]
    assert stored["both/0"] != stored[f"both/{per_output}"]
    assert (output["seed"], output["seeds"]) == (11, [11, 5])
    assert len(both.artifacts) == 2 * per_output
    assert both.usage.units == pytest.approx(eleven.usage.units + five.usage.units)
    assert both.usage.steps == eleven.usage.steps + five.usage.steps


@pytest.mark.long
async def test_images_that_share_a_call_are_those_of_their_seeds_within_rounding(
    make_rig: MakeRig,
) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    output, _ = await run_request(rig, "both", FLUX, seeds=[11, 5])
    await run_request(rig, "five", FLUX, seed=5)

    def levels(key: str) -> Any:
        return np.asarray(Image.open(io.BytesIO(rig.storage.objects[key])), dtype=float)

    five = levels("five/0")
    apart = [np.abs(levels(key) - five).mean() for key in ("both/0", "both/1")]
    assert apart[1] < 0.2 * apart[0]
    assert output["seeds"] == [11, 5]
    assert len(output["images"]) == 2


@pytest.mark.long
async def test_videos_are_listed_with_the_first_where_it_always_is(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0)
    output, _ = await run_request(rig, "both", WAN, seeds=[11, 5])
    assert [video["artifact"] for video in output["videos"]] == ["both/0", "both/2"]
    assert [poster["artifact"] for poster in output["posters"]] == ["both/1", "both/3"]
    assert output["video"] == output["videos"][0]
    assert output["poster"] == output["posters"][0]


@pytest.mark.long
async def test_progress_counts_the_steps_of_all_and_never_goes_back(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0, report_interval_s=0.01)
    lease = make_lease(rig, "both", WAN, seeds=[11, 5], num_inference_steps=10)
    rig.port.offer(lease)
    await rig.outcome(lease.key)
    progress = [
        progress
        for _, report in rig.port.reports
        for _, progress in report.progress
        if progress.stage is Stage.DENOISING
    ]
    assert {update.steps for update in progress} == {20}
    assert all(earlier.step <= other.step for earlier, other in pairwise(progress))
    assert any(update.step > 10 for update in progress)


@pytest.mark.long
async def test_one_that_is_cancelled_at_its_second_video_leaves_nothing_of_the_first(
    make_rig: MakeRig,
) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0, slots=1)
    lease = make_lease(rig, "both", WAN, seeds=[11, 5], num_inference_steps=40)
    rig.port.offer(lease)
    await rig.wait_for_report(lease.key, step=42)
    assert "both/0" in rig.storage.objects
    rig.port.cancelled.add(lease.key)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is not None
    assert outcome.failure.code == "cancelled"
    await rig.port.until(lambda: not rig.storage.objects)
    await run_request(rig, "next", FLUX)
