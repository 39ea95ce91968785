"""A replica that closes while a clip is decoded hands its steps on."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.domain.progress import Stage
from tests.deployments.conftest import MakeRig
from tests.deployments.demos import WAN, leased

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


async def test_a_clip_that_is_decoded_when_its_replica_closes_is_not_denoised_again(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(call_timeout_s=20.0, snapshot_interval_s=0.0)
    rig.port.offer(lease := leased(rig, "clip", WAN, num_frames=161, num_inference_steps=40))
    async with asyncio.timeout(120):
        await rig.port.until(
            lambda: any(
                progress.stage is Stage.DECODING
                for _, report in rig.port.reports
                for _, progress in report.progress
            )
        )
        await rig.core.aclose()
    assert rig.port.handed_back == [lease.held]
    assert rig.port.snapshots[lease.held].step == 40
