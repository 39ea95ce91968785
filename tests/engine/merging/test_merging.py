"""Several generations in one forward: each gets what it gets alone, within rounding."""

from functools import partial
from pathlib import Path

import pytest
import torch

from deployments.engine.loading.loader import load_pipeline
from serve_app.domain.endpoint import Weights
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

DEMO = Path(__file__).parents[3] / "deployments" / "demo" / "flux"
WISHES = (
    {"prompt": "a red circle", "seed": 1, "steps": 4},
    {"prompt": "a blue square", "seed": 2, "steps": 6},
    {"prompt": "a green circle", "seed": 3, "steps": 5},
)


@pytest.fixture(scope="session")
def demo():
    return load_pipeline(Weights(str(DEMO)))


LATER_FAMILIES = {
    "flux2": tiny_flux2_klein,
    "qwen_image": tiny_qwen_image,
    "z_image": tiny_z_image,
}


PIPELINES = ["flux", "sdxl", "sd3", "demo", *LATER_FAMILIES]


@pytest.fixture(params=sample_params(PIPELINES, "flux", "sdxl", "sd3", "z_image"), scope="module")
def pipeline(request):
    if request.param in LATER_FAMILIES:
        return LATER_FAMILIES[request.param]()
    return request.getfixturevalue(request.param)


@pytest.fixture
def wish(pipeline, demo):
    """Arguments of a call that is small, and not smaller than the pipeline takes."""
    side = 64 if pipeline is demo else 32
    size = {"width": side, "height": side}
    return partial(call, **size)


@pytest.fixture
def engine(pipeline):
    with merging_engine(pipeline, max_batch=4, threads=1, verify_merges=True) as engine:
        yield engine


def together(engine, calls):
    """Results of generations that all begin before one goes on."""
    gate = Gate(engine)
    running = [engine.submit(**fields) for fields in calls]
    gate.open()
    return [generation.result(60).images for generation in running]


def close(one, other):
    return (one - other).abs().max() <= 1e-4


@pytest.mark.variants(1)
def test_generations_with_other_prompts_seeds_and_steps_share_their_forwards(
    engine, pipeline, wish
):
    wishes = [wish(**arguments) for arguments in WISHES]
    results = together(engine, wishes)
    for fields, images in zip(WISHES, results, strict=True):
        assert close(images, pipeline(**wish(**fields)).images)
    counts = engine.counts()
    calls = counts["merged_calls"] + counts["single_calls"]
    assert calls == 15
    assert counts["merged_calls"] / calls >= 0.8
    assert counts["batch_sizes"] == {3: 4, 2: 1, 1: 1}
    assert counts["not_merged"] == {"nobody else": 1}


def test_alone_and_after_a_merge_it_makes_bit_for_bit_what_a_plain_call_makes(
    engine, pipeline, wish
):
    plain = pipeline(**wish()).images
    assert torch.equal(engine.submit(**wish()).result(60).images, plain)
    together(engine, [wish(seed=2), wish(seed=3)])
    assert torch.equal(engine.submit(**wish()).result(60).images, plain)
    assert torch.equal(pipeline(**wish()).images, plain)


def test_a_deterministic_generation_is_bit_for_bit_the_same_among_others(engine, pipeline, wish):
    wishes = [wish(seed=2), wish(seed=3), {**wish(), "deterministic": True}]
    *_, images = together(engine, wishes)
    assert torch.equal(images, pipeline(**wish()).images)
    assert engine.counts()["not_merged"]["deterministic"] == 3
    assert engine.counts()["merged_calls"] == 6
