"""The progress of a call ends at the number of steps that it states."""

from __future__ import annotations

import pytest

from deployments.engine.engine import Engine
from serve_app.domain.progress import Progress, Stage
from tests.engine.conformance.case import WISHES
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    "title",
    [
        "StableDiffusionImg2ImgPipeline",
        "KandinskyV22PriorEmb2EmbPipeline",
        pytest.param("CogVideoXVideoToVideoPipeline", marks=pytest.mark.long),
        pytest.param("IFImg2ImgPipeline", marks=pytest.mark.long),
        pytest.param("IFInpaintingSuperResolutionPipeline", marks=pytest.mark.long),
        pytest.param("KandinskyImg2ImgPipeline", marks=pytest.mark.long),
        pytest.param("KandinskyV22ControlnetImg2ImgPipeline", marks=pytest.mark.long),
        pytest.param("VideoToVideoSDPipeline", marks=pytest.mark.long),
        pytest.param("SanaSprintPipeline", marks=pytest.mark.long),
        pytest.param("WanVideoToVideoPipeline", marks=pytest.mark.long),
    ],
)
def test_a_call_states_the_steps_that_it_makes(title: str) -> None:
    """An input image leaves some of the steps out, which not each class tells its scheduler."""
    case = cases()[title]
    pipeline = case.build()
    # The original remembers the number of its last call.
    pipeline(**case.arguments(WISHES[0]))
    reported: list[Progress] = []
    with Engine(pipeline, device="cpu", threads=1) as engine:
        generation = engine.submit(on_progress=reported.append, **case.arguments(WISHES[1]))
        generation.result(300)
    steps = [progress for progress in reported if progress.stage is Stage.DENOISING]
    assert {progress.steps for progress in steps} == {steps[-1].step}
    assert any(progress.stage is Stage.DECODING for progress in reported)
