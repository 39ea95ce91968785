"""Pipelines whose components have types of their own, as Wan's and HunyuanVideo's authors load
them."""

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from tests.catalog.conftest import DEMO

CALL = {
    "prompt": "a red circle moves right",
    "height": 64,
    "width": 64,
    "num_frames": 5,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "output_type": "pt",
}


def wan():
    dtypes = {"default": "bfloat16", "vae": "float32"}
    pipeline = load_pipeline(Weights(str(DEMO / "wan")), dtype=dtypes)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded_call(seed):
    return {**CALL, "generator": torch.Generator("cpu").manual_seed(seed)}


@pytest.mark.long
@pytest.mark.engine
def test_a_video_decoded_in_float32_is_that_of_the_pipeline_by_itself():
    expected = [wan()(**seeded_call(seed)).frames for seed in (1, 2)]
    with Engine(wan(), threads=1) as engine:
        # `deterministic` keeps them from being merged, which may change the last bits of bfloat16.
        generations = [engine.submit(deterministic=True, **seeded_call(seed)) for seed in (1, 2)]
        decoded = [generation.result(timeout=300).frames for generation in generations]
    for plain, other in zip(expected, decoded, strict=True):
        assert plain.dtype == other.dtype == torch.float32
        torch.testing.assert_close(other, plain, rtol=0, atol=0)
