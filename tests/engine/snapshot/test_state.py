"""What belongs to a generation and lies on what all share: attention processors and step caches."""

import pytest
import torch
from diffusers import StableDiffusionXLPAGPipeline, TaylorSeerCacheConfig

from deployments.engine.engine import Engine
from deployments.engine.interception.step_caches import _states
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.tiny import tiny_flux, tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    # diffusers' discrete solvers and numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def together(engine, calls):
    gate = Gate(engine)
    running = [engine.submit(**fields) for fields in calls]
    gate.open()
    return [generation.result(60).images for generation in running]


def close(one, other):
    return (one - other).abs().max() <= 1e-4


@pytest.fixture(scope="module")
def plain():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def pag_pipeline(plain):
    """Over the same weights; it sets other attention processors on the UNet while it runs."""
    has = {**plain.config, **plain.components}
    pipeline = StableDiffusionXLPAGPipeline(
        **{name: has[name] for name in plain.components},
        pag_applied_layers=["mid"],
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_attention_processors_that_one_sets_are_not_the_others(plain, pag_pipeline):
    wishes = [call(seed=1, steps=4), call(seed=2, steps=5)]
    guided = [call(seed=3, steps=6, pag_scale=5.0), call(seed=4, steps=3, pag_scale=2.0)]
    with merging_engine(max_batch=4, threads=1) as engine:
        engine.add("plain", plain)
        engine.add("perturbed", pag_pipeline)
        named = [{**wish, "pipeline": "plain"} for wish in wishes]
        named += [{**fields, "pipeline": "perturbed"} for fields in guided]
        results = together(engine, named)
        counts = engine.counts()
    before = plain.unet.attn_processors
    alone = [plain(**call(seed=1, steps=4)), plain(**call(seed=2, steps=5))]
    alone += [
        pag_pipeline(**call(seed=3, steps=6, pag_scale=5.0)),
        pag_pipeline(**call(seed=4, steps=3, pag_scale=2.0)),
    ]
    for images, expected in zip(results, alone, strict=True):
        assert close(images, expected.images)
    assert counts["merged_calls"] == 14  # eight of the plain ones, six of the others
    assert plain.unet.attn_processors.keys() == before.keys()


def test_processors_are_as_they_were_after_an_error(pag_pipeline):
    before = pag_pipeline.unet.attn_processors

    def fail(pipeline, step, timestep, tensors):
        raise ZeroDivisionError

    with Engine(pag_pipeline, threads=1) as engine:
        doomed = engine.submit(callback_on_step_end=fail, **call(pag_scale=5.0))
        with pytest.raises(ZeroDivisionError):
            doomed.result(60)
    after = pag_pipeline.unet.attn_processors
    assert all(after[name] is before[name] for name in before)


@pytest.fixture
def caching():
    """With a step cache that cannot be merged."""
    pipeline = tiny_flux()
    pipeline.transformer.enable_cache(TaylorSeerCacheConfig(disable_cache_before_step=2))
    return pipeline


def test_step_caches_of_interleaved_generations_are_their_own(caching):
    wishes = [{"seed": 1, "steps": 6}, {"seed": 2, "steps": 8}, {"seed": 3, "steps": 7}]
    alone = [caching(**call(**wish)).images for wish in wishes]
    with merging_engine(caching, max_batch=4, threads=1) as engine:
        results = together(engine, [call(**wish) for wish in wishes])
        counts = engine.counts()
    for images, expected in zip(results, alone, strict=True):
        assert torch.equal(images, expected)
    # Whose calls come when the others have ended is not looked at further.
    assert counts["not_merged"].keys() == {"step cache", "nobody else"}
    assert counts["single_calls"] == 21
    assert not any(states for states in _states(caching.transformer))


def test_a_cache_that_is_not_the_generation_s_own_would_show(caching):
    """Or the test above would prove nothing."""
    cached = caching(**call(steps=8)).images
    caching.transformer.disable_cache()
    assert not torch.equal(caching(**call(steps=8)).images, cached)
