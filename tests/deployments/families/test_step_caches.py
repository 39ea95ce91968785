"""Step caches as an option of an endpoint: with the demo Flux, as its family loads it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.families.flux import FluxFamily
from deployments.families.sdxl import SdxlFamily
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Misconfigured
from tests.deployments.served import from_folder
from tests.engine.demo_calls import DEMO

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PROMPTS = ["a red circle above a blue square", "a green heart"]
STEPS = 10
FIRST_BLOCK = {"name": "FirstBlockCache", "threshold": 0.3}
MAGNITUDE = {"name": "MagCache", "mag_ratios": [1.0] * STEPS, "num_inference_steps": STEPS}
TAYLOR = {"name": "TaylorSeer", "cache_interval": 3}


def endpoint(step_cache, folder="flux", of="fal-ai/flux/dev"):
    options = {"native_size": 128, "dtype": "float32", "step_cache": step_cache}
    return from_folder(of, DEMO / folder, **options)


def load(step_cache):
    given = endpoint(step_cache)
    return FluxFamily().load(replace(given, weights=Weights(str(DEMO / "flux"))), "cpu")


def call(seed):
    return {
        "prompt": PROMPTS[seed % 2],
        "num_inference_steps": STEPS,
        "width": 128,
        "height": 128,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "pt",
    }


@pytest.mark.parametrize("cache", [FIRST_BLOCK, MAGNITUDE, TAYLOR], ids=lambda each: each["name"])
def test_a_step_cache_computes_less_and_gives_each_request_what_it_gives_alone(cache):
    pipeline, plain = load(cache), load(None)
    blocks = []
    counter = pipeline.transformer.single_transformer_blocks[-1].attn.to_q.register_forward_hook(
        lambda *_: blocks.append(1)
    )
    alone = [pipeline(**call(seed)).images for seed in range(3)]
    computed = len(blocks)
    counter.remove()
    assert 0 < computed < 3 * STEPS
    assert not torch.equal(alone[0], plain(**call(0)).images)
    with Engine(max_batch=4, threads=1) as engine:
        engine.add("cached", pipeline)
        submitted = [engine.submit(pipeline="cached", **call(seed)) for seed in range(3)]
        together = [each.result(120).images for each in submitted]
        merged = engine.counts()["merged_calls"]
    for one, expected in zip(together, alone, strict=True):
        assert (one - expected).abs().max() <= 1e-4
    assert (merged > 0) is (cache is not TAYLOR)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"name": "TeaCache"}, r"there is no 'TeaCache'. Choose one of FirstBlockCache, MagCache"),
        ({"threshold": 0.1}, r"there is no ''. Choose"),
        ({"name": "FirstBlockCache", "speed": 2}, r"FirstBlockCache has no speed. Settings: thr"),
        ({"name": "MagCache"}, r"MagCache does not fit the transformer: .*mag_ratios"),
        ("FirstBlockCache", r"it must be a mapping"),
    ],
)
def test_a_step_cache_that_cannot_be_is_refused_with_the_endpoint_and_the_reason(cache, message):
    with pytest.raises(Misconfigured, match=rf"fal-ai/flux/dev: `options.step_cache`.*{message}"):
        load(cache)


def test_a_denoiser_without_step_caches_says_so():
    given = endpoint(FIRST_BLOCK, "sdxl", "fal-ai/fast-sdxl")
    with pytest.raises(Misconfigured, match=r"StableDiffusionXLPipeline has no step caches"):
        SdxlFamily().load(given, "cpu")
