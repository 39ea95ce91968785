"""Video and audio requests that are stopped early: during denoising, decoding, writing or upload.
The slot becomes free, and no file is left."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.replica.attempt_state import StopReason
from serve_app.domain.lease import LeaseKey
from serve_app.domain.progress import Progress, Stage
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import AUDIO, FLUX, WAN, make_lease
from tests.deployments.waiting import until
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

LONG: dict[str, dict[str, Any]] = {
    WAN: {"num_frames": 81, "num_inference_steps": 4, "video_write_mode": "small"},
    AUDIO: {"seconds_total": 1.5, "steps": 40},
}
SHORT = {"num_frames": 17, "num_inference_steps": 2}
"""For what is done when a video has been made."""
WHILE: dict[str, tuple[str, Callable[[Progress], bool]]] = {
    "denoising": (AUDIO, lambda now: now.stage is Stage.DENOISING and now.step > 1),
    "denoising a video": (WAN, lambda now: now.stage is Stage.DENOISING and now.step > 1),
    "decoding": (WAN, lambda now: now.stage is Stage.ENCODING_MEDIA and 0 < now.step < 30),
    "writing": (WAN, lambda now: now.stage is Stage.ENCODING_MEDIA and now.step > 50),
    "uploading": (WAN, lambda now: now.stage is Stage.UPLOADING),
    "uploading audio": (AUDIO, lambda now: now.stage is Stage.UPLOADING),
}
"""Activity at the time of the stop. Decoding passes its chunks on to be written."""

EACH = pytest.mark.parametrize("doing", sample_params(WHILE, "uploading"))


async def begin_request(rig: Rig, doing: str, **changes: Any) -> tuple[LeaseKey, weakref.ref[Any]]:
    """A request that is in this activity, and its generation in the engine."""
    endpoint_id, at_it = WHILE[doing]
    # The first file arrives, and the second one hangs.
    rig.storage.closed = asyncio.Event() if doing.startswith("uploading") else None
    requested = SHORT if doing == "uploading" else LONG[endpoint_id]
    lease = replace(make_lease(rig, "long", endpoint_id, **requested), **changes)
    rig.port.offer(lease)
    attempts = rig.replica._attempts
    await until(lambda: lease.key in attempts and attempts[lease.key].state.generation is not None)
    generation = weakref.ref(attempts[lease.key].state.generation)
    await until(lambda: at_it(attempts[lease.key].state.progress or Progress(Stage.LOADING)), 240)
    return lease.key, generation


async def nothing_is_left(rig: Rig, generation: weakref.ref[Any], scratch: Path) -> None:
    if rig.storage.closed is not None:
        rig.storage.closed.set()
    await until(lambda: not rig.storage.objects)
    await until(lambda: not list(scratch.iterdir()))
    after = make_lease(rig, "after", FLUX)  # there is only one slot
    rig.port.offer(after)
    assert (await rig.outcome(after.key)).failure is None

    def gone() -> bool:
        gc.collect()
        return generation() is None

    await until(gone)


@EACH
async def test_one_that_is_cancelled_leaves_nothing(
    make_rig: MakeRig, scratch_folder: Path, doing: str
) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0, slots=1, report_interval_s=0.02)
    key, generation = await begin_request(rig, doing)
    rig.port.cancelled.add(key)
    outcome = await rig.outcome(key)
    assert outcome.failure is not None
    assert outcome.failure.code == "cancelled"
    await nothing_is_left(rig, generation, scratch_folder)


@pytest.mark.long
@pytest.mark.parametrize(
    "doing", sample_params(["decoding", "writing", "uploading audio"], "decoding")
)
async def test_one_whose_time_is_over_says_so_and_leaves_nothing(
    make_rig: MakeRig, scratch_folder: Path, doing: str
) -> None:
    rig: Rig = await make_rig(call_timeout_s=20.0, slots=1, report_interval_s=0.02)
    key, generation = await begin_request(rig, doing)
    rig.replica._attempts[key].stop(StopReason.DEADLINE)
    outcome = await rig.outcome(key)
    assert outcome.failure is not None
    assert outcome.failure.code == "expired"
    await nothing_is_left(rig, generation, scratch_folder)
