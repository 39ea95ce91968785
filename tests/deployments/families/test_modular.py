"""Modular pipelines, served by entries that declare what their blocks take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch

from deployments.engine.engine import Engine
from deployments.families.call_mapping import pipeline_view
from deployments.families.generic import GenericFamily
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured
from tests.engine.conformance.case import Case
from tests.engine.conformance.derived import entry_of
from tests.engine.conformance.zoo import cases

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

SIZE = {"image_size": {"width": 32, "height": 32}, "max_sequence_length": 32}
ASKED = {"prompt": "a red dog", "num_inference_steps": 4, "seed": 1, **SIZE}


@pytest.fixture(scope="module")
def case() -> Case:
    return cases()["ZImageModularPipeline"]


@pytest.fixture(scope="module")
def pipeline(case: Case) -> Any:
    return case.build()


@pytest.fixture(scope="module")
def endpoint(case: Case, pipeline: Any) -> Endpoint:
    listed = entry_of(case, pipeline).endpoint
    return replace(listed, options={**listed.options, "dtype": "float32"})


def test_each_request_has_its_own_guidance_scale(endpoint: Endpoint, pipeline: Any) -> None:
    family, usual = GenericFamily(), pipeline.guider.guidance_scale
    scales = (2.0, 9.0)
    with Engine(pipeline, device="cpu", threads=1) as engine:
        calls = [
            family.prepare(endpoint, {**ASKED, "guidance_scale": guidance}, pipeline, 0)
            for guidance in scales
        ]
        together = [engine.submit(view=request.view, **request.arguments) for request in calls]
        images = [generation.result(60)["images"] for generation in together]
    assert not torch.equal(*images)
    for scale, image in zip(scales, images, strict=True):
        alone = pipeline_view(endpoint, pipeline, type(pipeline))
        alone.guider = pipeline.guider.new(guidance_scale=scale, enabled=True)
        call = family.prepare(endpoint, ASKED, pipeline, 0)
        torch.testing.assert_close(alone(**call.arguments)["images"], image, atol=1e-4, rtol=0)
    assert pipeline.guider.guidance_scale == usual


def test_a_setting_of_a_component_that_there_is_not_is_refused(
    endpoint: Endpoint, pipeline: Any
) -> None:
    inputs = {**endpoint.options["inputs"]}
    inputs["guidance_scale"] = {"type": "number", "argument": "guide.guidance_scale"}
    wrong = replace(endpoint, options={**endpoint.options, "inputs": inputs})
    with pytest.raises(Misconfigured, match=r"has no guide\.guidance_scale to set"):
        GenericFamily().prepare(wrong, {**ASKED, "guidance_scale": 2.0}, pipeline, 0)


def test_a_modular_pipeline_is_called_over_the_weights_of_a_whole_one(endpoint: Endpoint) -> None:
    whole = cases()["ZImagePipeline"].build()
    chosen = replace(endpoint, options={**endpoint.options, "pipeline": "ZImageModularPipeline"})
    with Engine(whole, device="cpu", threads=1) as engine:
        call = GenericFamily().prepare(chosen, ASKED, whole, 0)
        outputs = engine.submit(view=call.view, **call.arguments).result(60)
    assert outputs["images"].shape == (1, 3, 32, 32)


def test_components_of_another_model_are_named(endpoint: Endpoint) -> None:
    chosen = replace(endpoint, options={**endpoint.options, "pipeline": "SD3ModularPipeline"})
    wan = cases()["WanModularPipeline"].build()
    with pytest.raises(Misconfigured, match="has no pipeline 'SD3ModularPipeline'"):
        GenericFamily().prepare(chosen, ASKED, wan, 0)
    with pytest.raises(Misconfigured, match=r"Wan22ModularPipeline .* it needs transformer_2"):
        pipeline_view(endpoint, wan, diffusers.Wan22ModularPipeline)
