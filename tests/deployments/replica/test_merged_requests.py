"""Requests that share a replica: they share forward passes and nothing else."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve_app.domain.lease import Lease
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


async def generate_image(rig: Rig, lease: Lease) -> bytes:
    """The file of the lease's image."""
    rig.port.offer(lease)
    async with asyncio.timeout(240):
        outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    return rig.storage.objects[f"{lease.request_id}/0"]


@pytest.mark.long
async def test_a_deterministic_request_makes_the_same_file_among_others(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=5, call_timeout_s=20.0)
    same = {"seed": 7, "num_inference_steps": 8, "prompt": "a blue star"}
    alone = await generate_image(rig, make_lease(rig, "alone", FLUX, alone=True, **same))
    others = [
        make_lease(rig, f"other{number}", FLUX, seed=number, num_inference_steps=12)
        for number in range(4)
    ]
    for lease in others:
        rig.port.offer(lease)
    beside = await generate_image(rig, make_lease(rig, "beside", FLUX, alone=True, **same))
    for lease in others:
        assert (await rig.outcome(lease.key)).failure is None
    assert beside == alone
    counts = rig.resources.engine.counts()
    assert counts["not_merged"]["deterministic"] >= 16
    assert counts["merged_calls"] > 0


async def test_an_image_does_not_wait_until_videos_are_written(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=3, call_timeout_s=20.0)
    ended = threading.Event()
    try:
        for _ in range(8):  # more than the number of threads
            rig.resources.writers.submit(ended.wait, 240)
        rig.port.offer(video := make_lease(rig, "video", WAN))
        await generate_image(rig, make_lease(rig, "image", FLUX))
        assert video.key not in [finish.lease_key for finish in rig.port.finishes]
    finally:
        ended.set()
    assert (await rig.outcome(video.key)).failure is None


@pytest.mark.long
async def test_short_requests_do_not_wait_for_a_long_one(make_rig: MakeRig) -> None:
    rig = await make_rig(slots=3, call_timeout_s=20.0)
    await generate_image(rig, make_lease(rig, "warm", FLUX))
    rig.port.offer(long := rig.lease("long", steps=100_000, step_ms=5))
    await rig.wait_for_report(long.key)
    shorts = [
        make_lease(rig, "image", FLUX),
        make_lease(rig, "audio", AUDIO),
        rig.lease("probe", steps=4),
    ]
    for lease in shorts:
        rig.port.offer(lease)
    async with asyncio.timeout(240):
        for lease in shorts:
            assert (await rig.outcome(lease.key)).failure is None
    assert long.key not in [finish.lease_key for finish in rig.port.finishes]
    rig.port.cancelled.add(long.key)
    assert (await rig.outcome(long.key)).failure is not None
