"""Videos through a replica: from weights on disk to the files in storage, with stops in between."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.media.images import to_levels
from serve_app.domain.lease import Lease
from serve_app.domain.progress import Stage
from tests.deployments import videos
from tests.deployments.conftest import Rig
from tests.deployments.served import Served
from tests.deployments.videos import LTX_T2V, MAKE, SMALL_T2V, WAN_T2V, decode_video
from tests.engine.gate import Gate
from tests.engine.media.test_video_reader import video

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory: pytest.TempPathFactory):
    def folder(endpoint_id: str) -> str:
        path = tmp_path_factory.mktemp("weights")
        MAKE[endpoint_id]().save_pretrained(path, safe_serialization=True)
        return str(path)

    return folder


def make_lease(rig: Rig, name: str, endpoint_id: str, folder: str, **fields: Any) -> Lease:
    """A lease whose ``fields`` replace the schema's defaults."""
    entry = videos.entry(endpoint_id, **fields.pop("options", {}))
    weights = replace(entry.endpoint.weights, source=folder, revision=None)
    endpoint = replace(entry.endpoint, weights=weights)
    body = {"prompt": "a red dog", "num_inference_steps": 2, "seed": 3}
    checked, _ = entry.schema.validate(body)
    tickets = (
        rig.storage.ticket(f"{name}/video", "video/mp4", 10**7),
        rig.storage.ticket(f"{name}/poster", "image/jpeg", 10**7),
    )
    lease = rig.lease(name, endpoint, **checked | fields)
    return replace(lease, upload_tickets=tickets)


def stored_video(rig: Rig, key: str, folder: Path) -> Any:
    path = folder / "again.mp4"
    path.write_bytes(rig.storage.objects[key])
    return decode_video(path)


@pytest.mark.parametrize("endpoint_id", [WAN_T2V, LTX_T2V])
async def test_a_replica_makes_a_video_and_its_poster(
    make_rig, weights_folder, scratch_folder, tmp_path, endpoint_id
):
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = make_lease(
        rig,
        "one",
        endpoint_id,
        weights_folder(endpoint_id),
        num_frames=9,
        resolution=None,
        options={"video_format": {"width": 64, "height": 48, "fps": 24}},
    )
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    assert [artifact.media_type for artifact in outcome.artifacts] == ["video/mp4", "image/jpeg"]
    assert outcome.output["video"]["artifact"] == "one/video"
    assert outcome.output["video"]["file_size"] == len(rig.storage.objects["one/video"])
    assert outcome.output["seed"] == 3
    assert outcome.usage.steps == 2
    assert outcome.usage.units == pytest.approx(9 / outcome.output["video"]["fps"])
    video = stored_video(rig, "one/video", tmp_path)
    assert len(video.frames) == outcome.output["video"]["num_frames"] == 9
    assert rig.storage.objects["one/poster"][:3] == b"\xff\xd8\xff"
    assert list(scratch_folder.iterdir()) == []


async def test_a_replica_draws_a_video_of_ours_anew(make_rig, weights_folder, tmp_path):
    rig: Rig = await make_rig(call_timeout_s=20.0)
    body = video(tmp_path, frames=8, fps=8, size=(64, 48))
    data_uri = "data:video/mp4;base64," + base64.b64encode(body).decode()
    lease = make_lease(
        rig,
        "again",
        WAN_T2V,
        weights_folder(WAN_T2V),
        video_url=data_uri,
        strength=0.6,
        num_frames=None,
        frames_per_second=None,
        resolution=None,
        options={
            "task": "video-to-video",
            "pipeline": "WanVideoToVideoPipeline",
            "video_format": {"width": 64, "height": 48},
            "arguments": {"strength": "strength"},
        },
    )
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None
    clip = stored_video(rig, "again/video", tmp_path)
    assert (len(clip.frames), clip.fps) == (8, 8)
    assert clip.size == (64, 48)


async def test_what_is_no_video_is_said_by_the_name_of_its_field(make_rig, weights_folder):
    rig: Rig = await make_rig(call_timeout_s=20.0)
    options = {
        "task": "video-to-video",
        "pipeline": "WanVideoToVideoPipeline",
        "video_format": {"width": 64, "height": 48},
        "arguments": {},
    }
    arguments = {"video_url": "data:video/mp4;base64,AAAA"}
    lease = make_lease(rig, "none", WAN_T2V, weights_folder(WAN_T2V), **arguments, options=options)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is not None
    assert outcome.failure.code == "invalid_input"
    assert "video_url" in outcome.failure.message


@pytest.mark.long
async def test_a_video_that_is_cancelled_while_it_is_written_leaves_nothing(
    make_rig, weights_folder, scratch_folder
):
    rig: Rig = await make_rig(call_timeout_s=20.0)
    lease = make_lease(
        rig,
        "long",
        LTX_T2V,
        weights_folder(LTX_T2V),
        video_write_mode="small",
        options={"video_format": {"width": 1920, "height": 1088, "num_frames": 49, "fps": 24}},
    )
    rig.port.offer(lease)
    await rig.port.until(
        lambda: any(
            progress.stage is Stage.ENCODING_MEDIA and 0 < progress.step < progress.steps == 49
            for _, report in rig.port.reports
            for _, progress in report.progress
        )
    )
    rig.port.cancelled.add(lease.key)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is not None
    assert outcome.failure.code == "cancelled"
    assert rig.storage.objects == {}
    await asyncio.to_thread(rig.resources.writers.shutdown)  # wait for the last frame
    assert list(scratch_folder.iterdir()) == []


def test_a_video_goes_on_from_a_snapshot_with_the_same_frames() -> None:
    snapshots: list[Any] = []

    def ask(progress: Any) -> None:
        if progress.stage is Stage.DENOISING and progress.step == 2:
            snapshots.append(running.request_snapshot())

    def frames(engine: Engine, **more: Any) -> tuple[Any, list[np.ndarray]]:
        came: list[np.ndarray] = []
        served = Served(videos.entry(SMALL_T2V), MAKE[SMALL_T2V](), engine)
        call = served.call(
            {"prompt": "a red dog", "num_inference_steps": 4, "seed": 7, "shift": 3},
            num_frames=9,
        )
        engine.add("wan", served.pipeline)
        generation = engine.submit(
            pipeline="wan",
            view=call.view,
            options=GenerationOptions(on_frames=lambda video: came.append(to_levels(video))),
            **more,
            **call.arguments,
        )
        return generation, came

    with Engine(device="cpu", threads=1) as engine:
        gate = Gate(engine)
        running, whole = frames(engine, on_progress=ask)
        gate.open()
        running.result(60)
    snapshot = snapshots[0].result(60).to_bytes()
    with Engine(device="cpu", threads=1) as other:
        resumed, again = frames(other, snapshot=snapshot)
        resumed.result(60)
        assert other.counts()["steps"] == 2
    assert np.array_equal(np.concatenate(whole), np.concatenate(again))
