"""Step caches as an option of an endpoint: with the demo Flux, as its family loads it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from deployments.engine.engine import Engine
from deployments.engine.interception.step_cache_options import CONFIGS
from deployments.engine.loop.options import GenerationOptions
from deployments.engine.lora.format import Lora
from deployments.families.flux import FluxFamily
from deployments.families.sdxl import SdxlFamily
from serve_app.domain.endpoint import Recipe, Weights, declared_levels, requested_cache
from serve_app.domain.errors import Misconfigured, SnapshotRefused
from serve_app.domain.progress import Stage
from tests.deployments.served import CATALOG, from_folder
from tests.engine.demo_calls import DEMO
from tests.engine.gate import Gate, merging_engine

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
    configured = endpoint(step_cache)
    return FluxFamily().load(replace(configured, weights=Weights(str(DEMO / "flux"))), "cpu")


def call(seed):
    return {
        "prompt": PROMPTS[seed % 2],
        "num_inference_steps": STEPS,
        "width": 128,
        "height": 128,
        "generator": torch.Generator("cpu").manual_seed(seed),
        "output_type": "pt",
    }


def run_diffusers(pipeline, cache, seed):
    """What diffusers gives by itself, and how often the last block was computed."""
    counted = []
    counter = pipeline.transformer.single_transformer_blocks[-1].attn.to_q.register_forward_hook(
        lambda *_: counted.append(1)
    )
    if cache is not None:
        settings = {name: value for name, value in cache.items() if name != "name"}
        if cache is TAYLOR:
            settings["taylor_factors_dtype"] = torch.float32
        pipeline.transformer.enable_cache(CONFIGS[cache["name"]](**settings))
    try:
        return pipeline(**call(seed)).images, len(counted)
    finally:
        counter.remove()
        if cache is not None:
            pipeline.transformer.disable_cache()


def cache_options(cache, **more):
    return GenerationOptions(step_cache=cache, **more)


@pytest.mark.long
@pytest.mark.parametrize(
    "cache",
    [
        pytest.param(
            settings,
            marks=[] if settings is FIRST_BLOCK else [pytest.mark.long],
            id=settings["name"],
        )
        for settings in (FIRST_BLOCK, MAGNITUDE, TAYLOR)
    ],
)
def test_requests_with_a_step_cache_compute_less_beside_others_that_compute_every_step(cache):
    pipeline, one_by_one = load(cache), load(None)
    expected = [run_diffusers(one_by_one, cache if seed < 3 else None, seed) for seed in range(6)]
    assert all(0 < computed < STEPS for _, computed in expected[:3])
    assert not torch.equal(expected[0][0], run_diffusers(one_by_one, None, 0)[0])
    with merging_engine(max_batch=4, threads=1) as engine:
        engine.add("flux", pipeline)
        gate = Gate(engine)
        submitted = [
            engine.submit(
                pipeline="flux",
                options=cache_options(cache if seed < 3 else None),
                **call(seed),
            )
            for seed in range(6)
        ]
        gate.open()
        together = [generation.result(120).images for generation in submitted]
        counts = engine.counts()
    for images, (reference, _) in zip(together, expected, strict=True):
        assert (images - reference).abs().max() <= 1e-4
    if cache is TAYLOR:
        assert counts["not_merged"]["step cache"] == 3 * STEPS
    else:
        assert counts["merged_calls"] > 3 * STEPS  # more than those without a cache
    assert not pipeline.transformer.is_cache_enabled


@pytest.mark.long
def test_a_request_without_a_step_cache_has_the_bits_of_a_model_that_never_had_one():
    pipeline = load(FIRST_BLOCK)
    expected = pipeline(**call(1)).images
    with Engine(threads=1) as engine:
        engine.add("flux", pipeline)
        options = {"pipeline": "flux", "deterministic": True}
        with_cache = engine.submit(**options, options=cache_options(FIRST_BLOCK), **call(1))
        without = engine.submit(**options, **call(1))
        assert torch.equal(without.result(60).images, expected)
        assert not torch.equal(with_cache.result(60).images, expected)
        again = engine.submit(**options, **call(1)).result(60).images
    assert torch.equal(again, expected)
    assert torch.equal(pipeline(**call(1)).images, expected)


@pytest.mark.long
def test_the_same_cache_with_other_settings_is_a_cache_of_its_own():
    pipeline, one_by_one = load(None), load(None)
    eager = {**FIRST_BLOCK, "threshold": 10.0}
    expected = [run_diffusers(one_by_one, step_cache, 1) for step_cache in (FIRST_BLOCK, eager)]
    assert expected[1][1] < expected[0][1]
    with Engine(max_batch=4, threads=1, limit_rows=False) as engine:
        engine.add("flux", pipeline)
        generations = [
            engine.submit(pipeline="flux", options=cache_options(variant), **call(1))
            for variant in (FIRST_BLOCK, eager, dict(reversed(FIRST_BLOCK.items())))
        ]
        images = [generation.result(120).images for generation in generations]
    for image, (reference, _) in zip(images, [*expected, expected[0]], strict=True):
        assert (image - reference).abs().max() <= 1e-4


def lora(file, scale):
    """A LoRA of an attention layer of every block."""
    layers = [f"single_transformer_blocks.{number}.attn.to_q" for number in range(2)]
    torch.manual_seed(3)
    size = load(None).transformer.single_transformer_blocks[0].attn.to_q.weight.shape[1]
    state = {
        f"transformer.{layer}.{half}.weight": torch.randn(*shape) * scale
        for layer in layers
        for half, shape in (("lora_A", (2, size)), ("lora_B", (size, 2)))
    }
    save_file(state, file)
    return file


@pytest.mark.long
def test_a_lora_changes_a_generation_with_a_step_cache(tmp_path):
    file = lora(tmp_path / "lora.safetensors", 0.5)
    one_by_one = load(None)
    one_by_one.load_lora_weights(file)
    expected, computed = run_diffusers(one_by_one, FIRST_BLOCK, 1)
    plain, _ = run_diffusers(load(None), FIRST_BLOCK, 1)
    assert not torch.equal(plain, expected)
    assert 0 < computed < STEPS
    with Engine(max_batch=4, threads=1, limit_rows=False) as engine:
        engine.add("flux", load(None))
        generations = [
            engine.submit(
                pipeline="flux", loras=loras, options=cache_options(FIRST_BLOCK), **call(1)
            )
            for loras in ([], [Lora(file)], [])
        ]
        images = [generation.result(120).images for generation in generations]
    for image, reference in zip(images, (plain, expected, plain), strict=True):
        assert (image - reference).abs().max() <= 1e-4


@pytest.mark.long
@pytest.mark.parametrize("cache", [FIRST_BLOCK, MAGNITUDE], ids=lambda cache: cache["name"])
def test_a_snapshot_continues_a_step_cache_to_the_bit(cache):
    with Engine(load(None), threads=1) as engine:
        whole = engine.submit(options=cache_options(cache), deterministic=True, **call(1))
        snapshots = []
        options = cache_options(cache)
        gate = Gate(engine)
        begun = engine.submit(
            options=options,
            deterministic=True,
            on_progress=lambda it: (
                snapshots.append(begun.request_snapshot())
                if it.step == STEPS // 2 and it.stage is Stage.DENOISING
                else None
            ),
            **call(1),
        )
        gate.open()
        expected = whole.result(60).images
        assert torch.equal(begun.result(60).images, expected)
        taken = snapshots[0].result(60).to_bytes()
    with Engine(load(None), threads=1) as engine:
        again = {"deterministic": True, "snapshot": taken}
        resumed = engine.submit(options=cache_options(cache), **again, **call(1))
        assert torch.equal(resumed.result(60).images, expected)
        other = engine.submit(**again, **call(1))
        with pytest.raises(SnapshotRefused, match="another step cache"):
            other.result(60)


@pytest.mark.parametrize(
    ("acceleration", "expected"),
    [("none", None), ("regular", "regular"), ("high", "high"), (None, "regular")],
)
def test_the_level_of_a_request_chooses_the_cache(acceleration, expected):
    levels = {"regular": FIRST_BLOCK, "high": {**FIRST_BLOCK, "threshold": 0.5}}
    configured = endpoint(levels)
    body = {} if acceleration is None else {"acceleration": acceleration}
    assert requested_cache(declared_levels(configured, None), body) == levels.get(expected)
    only = requested_cache(declared_levels(endpoint(FIRST_BLOCK), None), body)
    assert only == (None if expected is None else FIRST_BLOCK)


def test_a_recipe_has_step_caches_of_its_own():
    own = {"name": "FirstBlockCache", "threshold": 0.2}
    recipe = Recipe(24, "bfloat16", step_cache=own)
    configured = endpoint(FIRST_BLOCK)
    for_it = declared_levels(configured, recipe)
    assert requested_cache(for_it, {"acceleration": "regular"}) == own
    assert requested_cache(for_it, {"acceleration": "none"}) is None
    assert declared_levels(configured, Recipe(48, "bfloat16")) == {"regular": FIRST_BLOCK}


@pytest.mark.long
@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"name": "TeaCache"}, r"there is no 'TeaCache'. Choose one of FirstBlockCache, MagCache"),
        ({"threshold": 0.1}, r"regular: a step cache is a mapping with a `name`"),
        ({"name": "FirstBlockCache", "speed": 2}, r"FirstBlockCache has no speed. Settings: thr"),
        ({"name": "MagCache"}, r"MagCache does not fit the transformer: .*mag_ratios"),
        ("FirstBlockCache", r"it must be a mapping"),
    ],
)
def test_a_step_cache_that_cannot_be_is_refused_with_the_endpoint_and_the_reason(cache, message):
    with pytest.raises(Misconfigured, match=rf"fal-ai/flux/dev: `options.step_cache`.*{message}"):
        load(cache)


def test_a_denoiser_without_step_caches_says_so():
    configured = endpoint(FIRST_BLOCK, "sdxl", "fal-ai/fast-sdxl")
    with pytest.raises(Misconfigured, match=r"StableDiffusionXLPipeline has no step caches"):
        SdxlFamily().load(configured, "cpu")


@pytest.mark.long
async def test_a_request_gets_the_step_cache_of_its_acceleration(make_rig):
    endpoint_id = "fal-ai/flux/dev"
    options = {"native_size": 128, "dtype": "float32"}
    levels = {"regular": FIRST_BLOCK, "high": {**FIRST_BLOCK, "threshold": 10.0}}
    configured = from_folder(endpoint_id, DEMO / "flux", **options, step_cache=levels)
    rig = await make_rig(slots=1)
    body = {"prompt": PROMPTS[0], "seed": 1, "num_inference_steps": STEPS, "image_size": "square"}
    files = {}
    for level in ("none", "regular", "high", "none"):
        checked, _ = CATALOG.get(endpoint_id).schema.validate({**body, "acceleration": level})
        lease = rig.lease(f"{level} {len(files)}", configured, **checked)
        rig.port.offer(lease)
        outcome = await rig.outcome(lease.key)
        assert outcome.failure is None
        assert outcome.usage.steps == STEPS
        files[lease.key.request_id] = rig.storage.objects[f"{lease.key.request_id}/1/0"]
    none, regular, high, none_again = files.values()
    assert none == none_again
    assert len({none, regular, high}) == 3
    assert len(rig.resources.residency._loaded) == 1
