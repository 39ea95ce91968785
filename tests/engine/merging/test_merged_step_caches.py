"""Step caches in merged forwards: each generation gets what diffusers gives it alone."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.hooks.hooks import CacheContext, StateManager
from diffusers.hooks.mag_cache import MagCacheBlockHook, MagCacheHeadHook, MagCacheState
from diffusers.models.transformers.transformer_flux import FluxTransformerBlock
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.interception.step_caches import Magnitude, _states
from tests.engine.calls import call
from tests.engine.gate import Gate, merging_engine
from tests.engine.tiny import tiny_flux
from tests.engine.tiny_qwen import tiny_qwen_image

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("one_torch_thread")]

WISHES = [
    {"seed": 1, "steps": 6, "prompt": "a red circle"},
    {"seed": 2, "steps": 8, "prompt": "a blue curve"},
    {"seed": 3, "steps": 7, "prompt": "a gray circl"},
]
RATIOS = [1.0, 0.99, 1.02, 0.98, 1.01, 1.0, 0.97, 1.0]
MAGNITUDE = MagCacheConfig(
    threshold=0.06,
    max_skip_steps=2,
    retention_ratio=0.2,
    num_inference_steps=8,
    mag_ratios=RATIOS,
)
GUIDED = {
    "negative_prompt": "b",
    "true_cfg_scale": 3.0,
}  # two calls a step, each with its own state
MAKERS = {"flux": (tiny_flux, {}), "qwen": (tiny_qwen_image, GUIDED)}
CASES = {
    # Thresholds at which some generations compute a step that others reuse.
    "flux, first block": ("flux", FirstBlockCacheConfig(threshold=0.35)),
    "flux, magnitude": ("flux", MAGNITUDE),
    "qwen, first block": ("qwen", FirstBlockCacheConfig(threshold=0.5)),
    "qwen, magnitude": ("qwen", MAGNITUDE),
}


@pytest.fixture(scope="module")
def pipelines():
    """The pipelines, made once."""
    return {name: make(layers=3) for name, (make, _) in MAKERS.items()}


@pytest.fixture(params=CASES)
def case(request, pipelines):
    """A pipeline with a cache, and what its calls have beside the wishes."""
    name, config = CASES[request.param]
    pipeline = pipelines[name]
    pipeline.transformer.enable_cache(config)
    yield pipeline, MAKERS[name][1]
    pipeline.transformer.disable_cache()


class Full:
    """Counts the rows and forwards for which the last block was computed."""

    def __init__(self, transformer):
        blocks = [*transformer.transformer_blocks]
        blocks += getattr(transformer, "single_transformer_blocks", [])
        self.forwards = 0
        self._hook = blocks[-1].attn.register_forward_hook(self._count)

    def _count(self, *_):
        self.forwards += 1

    def take_forwards(self):
        forwards, self.forwards = self.forwards, 0
        return forwards

    def stop(self):
        self._hook.remove()


def together(engine, calls):
    gate = Gate(engine)
    running = [engine.submit(**fields) for fields in calls]
    gate.open()
    return [generation.result(60).images for generation in running]


@pytest.mark.variants(1)
@pytest.mark.parametrize("verify", [False, True])
def test_merged_each_gets_what_it_gets_alone_and_less_is_computed(case, verify):
    pipeline, more = case
    full = Full(pipeline.transformer)
    alone = [pipeline(**call(**wish, **more)).images for wish in WISHES]
    singly = full.take_forwards()
    with merging_engine(pipeline, max_batch=4, threads=1, verify_merges=verify) as engine:
        images = together(engine, [call(**wish, **more) for wish in WISHES])
        counts = engine.counts()
    for image, expected in zip(images, alone, strict=True):
        assert (image - expected).abs().max() <= 1e-5
    if not verify:
        assert full.take_forwards() < singly
        assert counts["trial_forwards"] == 0
    full.stop()
    assert counts["merged_calls"] > 0
    assert not set(counts["not_merged"]) - {"nobody else", "step cache", "other shapes or values"}
    assert not any(_states(pipeline.transformer))  # nothing is left of generations that have ended
    assert torch.equal(pipeline(**call(**WISHES[0], **more)).images, alone[0])


@pytest.mark.long
@pytest.mark.parametrize("name", MAKERS)
def test_the_wishes_part_where_the_first_block_decides(pipelines, name):
    """Or the test above would prove less."""
    pipeline, more = pipelines[name], MAKERS[name][1]
    pipeline.transformer.enable_cache(CASES[f"{name}, first block"][1])
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        together(engine, [call(**wish, **more) for wish in WISHES])
        assert engine.counts()["not_merged"]["step cache"] > 0
    pipeline.transformer.disable_cache()


@pytest.mark.long
def test_a_merge_that_fails_leaves_the_caches_as_they_were(case):
    pipeline, more = case

    def refuse(_, inputs):
        if len(inputs[0]) > 1:
            raise ArithmeticError("Only one row at a time.")

    alone = [pipeline(**call(**wish, **more)).images for wish in WISHES]
    hook = pipeline.transformer.proj_out.register_forward_pre_hook(refuse)  # after all blocks
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        images = together(engine, [call(**wish, **more) for wish in WISHES])
        assert engine.counts()["merged_calls"] == 0
    hook.remove()
    for image, expected in zip(images, alone, strict=True):
        assert torch.equal(image, expected)


def test_prompts_of_other_lengths_are_not_padded_where_a_cache_would_keep_the_padding(pipelines):
    pipeline = pipelines["qwen"]
    pipeline.transformer.enable_cache(MAGNITUDE)
    wishes = [{"seed": n, "prompt": "a" * (n + 1), **GUIDED} for n in range(3)]
    alone = [pipeline(**call(**wish)).images for wish in wishes]
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        images = together(engine, [call(**wish) for wish in wishes])
        assert engine.counts()["merged_calls"] > 0  # the negative prompts have one length
    for image, expected in zip(images, alone, strict=True):
        assert (image - expected).abs().max() <= 1e-5
    pipeline.transformer.disable_cache()


class Nameless:
    """A pipeline that does not say which of its calls is which."""

    def __init__(self, transformer):
        self.transformer = transformer

    def __call__(self, seed, steps):
        random = torch.Generator().manual_seed(seed)
        latents = torch.randn(1, 4, 16, generator=random)
        arguments = {
            "encoder_hidden_states": torch.randn(1, 3, 32, generator=random),
            "pooled_projections": torch.randn(1, 32, generator=random),
            "img_ids": torch.zeros(4, 3),
            "txt_ids": torch.zeros(3, 3),
            "return_dict": False,
        }
        for step in range(steps):
            timestep = torch.tensor([1 - step / steps])
            latents = latents - 0.5 * self.transformer(latents, timestep=timestep, **arguments)[0]
        return latents


@torch.no_grad()
def test_a_cache_that_names_itself_is_each_generation_s_own():
    transformer = tiny_flux(layers=2).transformer
    transformer.enable_cache(MAGNITUDE)
    pipeline = Nameless(transformer)
    wishes = [{"seed": 1, "steps": 6}, {"seed": 2, "steps": 7}, {"seed": 3, "steps": 8}]
    alone = []
    for wish in wishes:
        alone.append(pipeline(**wish))
        transformer._reset_stateful_cache()
    with merging_engine(pipeline, max_batch=4, threads=1) as engine:
        gate = Gate(engine)
        running = [engine.submit(**wish) for wish in wishes]
        gate.open()
        for generation, expected in zip(running, alone, strict=True):
            assert torch.equal(generation.result(60), expected)


ratios = st.floats(0.5, 1.5, width=32)


@given(
    st.floats(0.0, 0.5),
    st.integers(0, 4),
    st.floats(0.0, 1.0),
    st.integers(1, 12),
    st.lists(ratios, min_size=1, max_size=12),
    st.integers(1, 30),
)
def test_which_steps_are_computed_is_what_the_hook_of_diffusers_says(
    threshold, most, retention, steps, ratios, calls
):
    config = MagCacheConfig(threshold, most, retention, steps, ratios)
    manager = StateManager(MagCacheState)
    manager.set_context(CacheContext("1:cond"))
    head, tail = (
        MagCacheHeadHook(manager, config),
        MagCacheBlockHook(manager, is_tail=True, config=config),
    )
    head._metadata = TransformerBlockRegistry.get(FluxTransformerBlock)
    head.fn_ref = SimpleNamespace(original_forward=lambda **_: "computed")
    cache = Magnitude(head, tail)
    inputs = {"hidden_states": torch.zeros(1, 2, 3), "encoder_hidden_states": torch.zeros(1)}
    for _ in range(calls):
        decision = cache.key("1:cond")
        computed = head.new_forward(None, **inputs) == "computed"
        assert decision is computed
        state = manager.get_state()
        if computed:
            state.previous_residual = torch.zeros(1, 2, 3)
        tail._advance_step(state)
