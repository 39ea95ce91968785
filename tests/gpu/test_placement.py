"""Recipes on the device: storage in 8 bits, and weights that wait in host memory."""

import gc

import pytest
import torch

from deployments.engine.memory.placement import STORED
from serve_app.domain.endpoint import Recipe
from tests.engine.calls import call
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.gpu.device import (
    MARKS,
    RESULT_S,
    engine_of,
    on_device,
    only_gpu,
    relative,
    run_merged,
    together,
    used_bytes,
)

pytestmark = MARKS

PLACEMENTS = {
    "components": Recipe(24, "float32", "components", ("transformer", "vae")),
    "components, nothing hot": Recipe(8, "float32", "components"),
    "blocks": Recipe(12, "float32", "blocks", ("vae",)),
}


@pytest.mark.parametrize("recipe", PLACEMENTS.values(), ids=PLACEMENTS)
def test_where_weights_wait_changes_no_bit(recipe):
    plain = on_device(tiny_flux())(**call()).images
    with engine_of() as engine:
        engine.add("flux", tiny_flux(), recipe)
        for _ in range(2):
            result = engine.submit(pipeline="flux", deterministic=True, **call()).result(RESULT_S)
            assert torch.equal(result.images.cpu(), plain.cpu())


@pytest.mark.parametrize("recipe", PLACEMENTS.values(), ids=PLACEMENTS)
def test_what_waits_is_merged_too(recipe):
    plain = [on_device(tiny_flux())(**call(seed=seed)).images for seed in range(3)]
    with engine_of() as engine:
        engine.add("flux", tiny_flux(), recipe)
        calls = [{"pipeline": "flux", **call(seed=seed)} for seed in range(3)]
        results = run_merged(engine, calls)
        assert engine.counts()["merged_calls"] >= 6
    for result, other in zip(results, plain, strict=True):
        assert relative(result.images, other) <= 1e-3


@only_gpu
def test_streamed_blocks_take_less_than_the_whole_model():
    before = used_bytes()
    whole = on_device(tiny_flux(layers=8))
    all_of_it = used_bytes() - before
    del whole
    gc.collect()
    with engine_of() as engine:
        engine.add("flux", tiny_flux(layers=8), PLACEMENTS["blocks"])
        engine.submit(pipeline="flux", **call()).result(RESULT_S)
        assert used_bytes() - before < all_of_it


@pytest.mark.parametrize(
    ("make", "dtype"),
    [  # in float16, the pipeline upcasts SDXL's autoencoder, which the tiny one cannot do
        (tiny_flux, torch.bfloat16),
        (tiny_flux, torch.float16),
        (tiny_sdxl, torch.bfloat16),
    ],
)
def test_storage_in_8_bits_changes_little_and_merges(make, dtype):
    plain = [on_device(make(), dtype)(**call(seed=seed)).images for seed in range(3)]
    stored = make().to(dtype=dtype)
    with engine_of() as engine:
        engine.add("it", stored, Recipe(24, "float8"))
        denoiser = getattr(stored, "transformer", None) or stored.unet
        assert STORED in {parameter.dtype for parameter in denoiser.parameters()}
        calls = [{"pipeline": "it", **call(seed=seed)} for seed in range(3)]
        results = run_merged(engine, calls)
        counts = engine.counts()
    for result, other in zip(results, plain, strict=True):
        assert relative(result.images, other) <= 0.1
        assert result.images.isfinite().all()
    assert counts["merged_calls"] >= 6
    assert "differs when merged" not in counts["not_merged"]


def test_two_models_in_different_types_run_beside_each_other():
    half = on_device(tiny_flux(), torch.bfloat16)
    full = on_device(tiny_flux())
    plain = [model(**call()).images for model in (half, full)]
    with engine_of() as engine:
        for name, pipeline in (("half", half), ("full", full)):
            engine.add(name, pipeline)
        calls = [{"pipeline": name, **call()} for name in ("half", "full")]
        images = [result.images for result in together(engine, calls)]
    for image, other in zip(images, plain, strict=True):
        assert torch.equal(image.cpu(), other.cpu())
