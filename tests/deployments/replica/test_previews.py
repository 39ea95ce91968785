"""Previews: from the engine to the reports."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from deployments.replica.previewer import Previewer
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.progress import Preview

DEMO = Path(__file__).parents[3] / "deployments" / "demo" / "flux"
FLUX = Endpoint("flux", "flux", Weights(str(DEMO), demo=True), "flux")
STEPS = 40
INPUT = {
    "prompt": "a red circle",
    "image_size": {"width": 128, "height": 128},
    "num_inference_steps": STEPS,
    "guidance_scale": 3.5,
    "num_images": 1,
    "seed": 1,
}

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]


def previews(rig, lease_key):
    return [
        preview
        for _, report in rig.port.reports
        for of, preview in report.previews
        if of == lease_key
    ]


@pytest.mark.long
async def test_while_somebody_looks_each_report_carries_at_most_one_preview(make_rig):
    rig = await make_rig(report_interval_s=0.05)
    lease = rig.lease("a", FLUX, **INPUT)
    rig.port.watched.add(lease.key)
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert outcome.failure is None, outcome.failure
    for _, report in rig.port.reports:
        assert len(report.previews) <= 1
    steps = [preview.step for preview in previews(rig, lease.key)]
    assert steps
    assert steps == sorted(set(steps))
    image = Image.open(BytesIO(previews(rig, lease.key)[0].image))
    assert (image.format, image.size) == ("JPEG", (256, 256))


@pytest.mark.long
async def test_where_no_one_looks_no_preview_is_made(make_rig):
    rig = await make_rig(report_interval_s=0.05)
    lease = rig.lease("a", FLUX, **INPUT)
    rig.port.offer(lease)
    await rig.outcome(lease.key)
    assert previews(rig, lease.key) == []


async def test_what_shows_no_image_runs_on(rig):
    key = rig.lease("a").key
    rig.port.watched.add(key)
    assert rig.offer("a", steps=40, step_ms=20) == key
    outcome = await rig.outcome(key)
    assert outcome.failure is None
    assert previews(rig, key) == []


async def test_reports_contain_the_rate(rig):
    key = rig.offer("a", steps=40, step_ms=20)
    await rig.outcome(key)
    reported = [progress for _, report in rig.port.reports for _, progress in report.progress]
    rates = [progress.rate for progress in reported if progress.rate]
    assert rates
    assert all(0 < rate < 50 for rate in rates)


@dataclass
class Shown:
    """Previews of an engine. The first two cannot be encoded."""

    step: int

    def jpeg(self, *, marked) -> bytes:
        if self.step <= 2:
            raise OSError("encoder error -2")
        return b"an image"


class Steps:
    """A generation that makes one step per requested preview."""

    def request_preview(self, after: int) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(Shown(after + 1))
        return future


def test_a_preview_that_becomes_no_image_is_said_once_and_the_next_one_comes(caplog):
    shown = []
    with ThreadPoolExecutor(1) as encoders:
        previewer = Previewer(encoders)
        previewer.follow(cast("Any", Steps()))
        for _ in range(3):
            previewer.want()
            encoders.submit(lambda: None).result(60)  # everything queued before it has run
            shown.append(previewer.take())
    assert shown == [None, None, Preview(3, b"an image")]
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "preview could not be encoded" in warning.message
    assert "encoder error -2" in caplog.text
