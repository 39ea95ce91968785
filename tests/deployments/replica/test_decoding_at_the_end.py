"""A replica that closes while a video is decoded saves a snapshot of its steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from deployments.engine.snapshot.format import Snapshot
from tests.deployments.conftest import MakeRig
from tests.deployments.demos import WAN, make_lease

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

STEPS = 3
VIDEO = {"num_frames": 17, "num_inference_steps": STEPS, "seed": 7}


class SlowDecoder:
    """Decoder that blocks in the third chunk of every video until it is released."""

    def __init__(self) -> None:
        self.reached, self.let_go = threading.Event(), threading.Event()
        self._chunks = 0

    def __call__(self, module: nn.Module, _given: Any) -> None:
        """Block. Called on the engine's thread."""
        if type(module).__name__.endswith("WanDecoder3d"):
            self._chunks += 1
            if self._chunks == 3:
                self.reached.set()
                assert self.let_go.wait(90)


@pytest.fixture
def decoder() -> Iterator[SlowDecoder]:
    slow = SlowDecoder()
    hook = nn.modules.module.register_module_forward_pre_hook(slow)
    yield slow
    slow.let_go.set()
    hook.remove()


@pytest.mark.long
async def test_a_video_that_is_decoded_when_its_replica_closes_is_not_denoised_again(
    make_rig: MakeRig, decoder: SlowDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.replica.attempt_state.MIN_SNAPSHOT_S", 0.0)
    quiet = {"call_timeout_s": 60.0, "snapshot_interval_s": 0.0}
    first_rig = await make_rig(**quiet, snapshot_worth_s=0.0, graceful_shutdown_timeout_s=120.0)
    first_rig.port.offer(lease := make_lease(first_rig, "video", WAN, **VIDEO))
    assert await asyncio.to_thread(decoder.reached.wait, 90)
    closing = asyncio.create_task(first_rig.replica.aclose())
    # The engine's thread is blocked, so the stored snapshot is from the start of decoding.
    stored = first_rig.storage.objects
    async with asyncio.timeout(90):
        while not any(key.startswith("s/video/") for key in stored):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    decoder.let_go.set()
    await closing
    assert first_rig.port.handed_back == [lease.key]
    kept = first_rig.port.snapshots[lease.key]
    assert kept.step == Snapshot.of_bytes(stored[kept.key]).step == STEPS

    # Another replica only decodes, and the video equals that of an uninterrupted run.
    other = await make_rig(**quiet)
    other.storage.objects.update(stored)
    snapshot_url = f"http://storage/files/{kept.key}"
    again = make_lease(other, "video", WAN, **VIDEO)
    again = replace(again, attempt=2, snapshot_url=snapshot_url, files_url="http://storage")
    whole = make_lease(other, "whole", WAN, **VIDEO)
    videos = []
    for offered, steps in ((again, 0), (whole, STEPS)):
        before = other.resources.engine.counts()["steps"]
        other.port.offer(offered)
        assert (await other.outcome(offered.key)).failure is None
        assert other.resources.engine.counts()["steps"] - before == steps
        videos.append(other.storage.objects[f"{offered.request_id}/0"])
    assert videos[0] == videos[1]
