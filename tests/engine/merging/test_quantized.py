"""Linear layers in 8 bits: how far they are from unquantized ones, and that their calls merge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.lora.format import Lora
from deployments.engine.memory.placement import bytes_of
from deployments.engine.merging.quantized import (
    QUANTIZATIONS,
    QuantizedLinear,
    quantize,
    rounds_inputs,
)
from serve_app.domain.endpoint import EIGHT_BITS, Recipe, Weights
from serve_app.domain.errors import Misconfigured
from tests.engine.calls import call
from tests.engine.demo_calls import DEMO
from tests.engine.gate import Gate, merging_engine
from tests.engine.loops import Denoiser, Loop
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.with_loras import plain_with, together
from tests.fakes.accelerator import FakeAccelerator
from training import exam
from training.image.checker import read

pytestmark = [
    pytest.mark.engine,
    # transformers and diffusers deprecate names of their own while they load.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

DISTANCES = {"int8-weights": 0.01, "int8-dynamic": 0.015, "float8-dynamic": 0.045}
"""Relative root mean square of what a layer of normal numbers may lose."""


def layer(features: int = 64, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(features, 48, bias=bias)


def rms(some: torch.Tensor, others: torch.Tensor) -> float:
    some, others = some.detach().double(), others.detach().double()
    return float((some - others).norm() / others.norm())


@pytest.mark.parametrize("precision", QUANTIZATIONS)
@pytest.mark.parametrize("shape", [(1, 64), (3, 5, 64), (40, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_gives_what_it_gave_within_its_precision(
    precision: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    original = layer().to(dtype)
    quantized = QuantizedLinear(original, QUANTIZATIONS[precision])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    output = quantized(x)
    assert output.shape == (*shape[:-1], 48)
    assert output.dtype == dtype
    assert 1e-4 < rms(output, original(x)) <= DISTANCES[precision]


@pytest.mark.parametrize("precision", ["int8-dynamic", "float8-dynamic"])
def test_a_row_of_huge_numbers_or_none_changes_no_other(precision: str) -> None:
    quantized = QuantizedLinear(layer(), QUANTIZATIONS[precision])
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    before = quantized(x)
    x[3], x[4], x[5] = 1e6, torch.nan, 0
    after = quantized(x)
    assert torch.equal(after[:3], before[:3])
    assert torch.equal(after[6:], before[6:])
    assert after[4].isnan().all()
    assert torch.equal(after[5], quantized.bias)


def test_casting_a_model_leaves_its_eight_bits_as_they_are() -> None:
    quantized = QuantizedLinear(layer(), QUANTIZATIONS["float8-dynamic"])
    weights = quantized.weight.clone()
    assert torch.equal(quantized.to(torch.bfloat16).weight, weights)


def test_only_large_layers_of_the_repeated_blocks_are_quantized() -> None:
    pipeline = tiny_flux()
    quantize(pipeline, "int8-dynamic")
    names = {
        name
        for name, each in pipeline.transformer.named_modules()
        if isinstance(each, QuantizedLinear)
    }
    assert "transformer_blocks.0.attn.to_q" in names
    assert "single_transformer_blocks.0.proj_out" in names
    assert not any("norm" in name or "embed" in name or name == "proj_out" for name in names)
    assert pipeline.transformer.dtype is torch.float32


def test_a_pipeline_without_repeated_blocks_is_refused() -> None:
    with pytest.raises(Misconfigured, match="int8-dynamic has nothing to quantize"):
        quantize(Loop(Denoiser()), "int8-dynamic")


@pytest.mark.parametrize("precision", ["int8-dynamic", "float8-dynamic"])
def test_a_device_that_cannot_multiply_in_eight_bits_refuses_before_anything_is_moved(
    precision: str,
) -> None:
    device = FakeAccelerator()
    device.multiplied = set()
    pipeline = tiny_flux()
    before = bytes_of([pipeline.transformer])
    with Engine(device=device) as engine:
        with pytest.raises(Misconfigured, match=f"{precision}, but this device"):
            engine.add("it", pipeline, Recipe(24, precision))
        assert bytes_of([pipeline.transformer]) == before
        assert not device.operations
        engine.add("it", pipeline, Recipe(24, "int8-weights"))  # which only stores
        assert bytes_of([pipeline.transformer]) < before


# What the demo models draw.

OF_IMAGES = {"int8-weights": 0.004, "int8-dynamic": 0.006, "float8-dynamic": 0.015}
"""Relative root mean square of pixels. Measured with Flux: 0.0015, 0.0025, 0.0066; with SDXL less
than half of that."""
PROMPTS = ["a green triangle", "a cyan heart", "a blue square", "a red circle"] * 2
ASKED = [tuple(prompt.split()[1:]) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["flux", "sdxl"])
def drawn(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any], list[Any]]:
    pipeline = load_pipeline(Weights(str(DEMO / request.param)))
    how = {"flux": {"steps": 4}, "sdxl": {"steps": 12, "guidance": 3.0}}[request.param]
    return pipeline, how, exam.draw(pipeline, PROMPTS, seeds=range(8), **how)


@pytest.mark.parametrize("precision", QUANTIZATIONS)
def test_demo_models_draw_the_same_colours_and_shapes_in_eight_bits(
    drawn: tuple[Any, dict[str, Any], list[Any]], precision: str
) -> None:
    pipeline, how, images = drawn
    denoiser = "transformer" if hasattr(pipeline, "transformer") else "unet"
    small = type(pipeline)(
        **{**pipeline.components, denoiser: copy.deepcopy(getattr(pipeline, denoiser))}
    )
    quantize(small, precision)
    made = exam.draw(small, PROMPTS, seeds=range(8), **how)
    seen = [[(one.colour, one.shape) for one in read(image).sights] for image in made]
    assert seen == [[look] for look in ASKED]
    assert rms(pixels(made), pixels(images)) <= OF_IMAGES[precision]


def pixels(images: list[Any]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(each)) for each in images])


# In the engine.


@pytest.mark.parametrize("precision", QUANTIZATIONS)
def test_calls_in_eight_bits_merge_though_last_bits_become_steps(precision: str) -> None:
    pipeline = load_pipeline(Weights(str(DEMO / "flux")))
    tokens = {"max_sequence_length": pipeline.tokenizer_2.model_max_length}
    wishes = [
        {**call("a red circle", seed, steps=3, width=64, height=64), **tokens} for seed in range(4)
    ]
    with merging_engine(threads=1, max_batch=4, verify_merges=True) as engine:
        engine.add("it", pipeline, Recipe(24, precision))
        gate = Gate(engine)
        running = [engine.submit(pipeline="it", **wish) for wish in wishes]
        gate.open()
        for each in running:
            each.result(100)
        counts = engine.counts()
        assert "differs when merged" not in counts["not_merged"]
        assert counts["merged_calls"] == 12
        again = {**call("a red circle", 0, steps=3, width=64, height=64), **tokens}
        alone = engine.submit(pipeline="it", **again).result(100)
    again["generator"].manual_seed(0)
    assert torch.equal(alone.images, pipeline(**again).images)


class Mixes(Denoiser):
    """Lets rows see each other, by more than rounding does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = QuantizedLinear(nn.Linear(64, 64), QUANTIZATIONS["int8-dynamic"])

    def compute(self, latents: Any, timestep: Any) -> Any:
        return self.layer(latents + 0.1 * (latents.mean(0) - latents)) + timestep


def test_rows_that_mix_are_found_in_eight_bits_too() -> None:
    starts = [torch.randn(1, 64, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    denoiser = Mixes().eval()
    with merging_engine(Loop(denoiser), threads=1, verify_merges=True) as engine:
        gate = Gate(engine)
        running = [engine.submit(start=start) for start in starts]
        gate.open()
        for generation, start in zip(running, starts, strict=True):
            with torch.no_grad():
                assert torch.equal(generation.result(60), Loop(denoiser)(start))
        assert engine.counts()["merged_calls"] == 0


def test_parameters_of_unknown_quantizers_are_taken_for_such_that_round_inputs() -> None:
    class Packed(nn.Parameter):
        pass

    plain, packed = layer(), layer()
    packed.weight = Packed(packed.weight.detach())
    assert rounds_inputs(packed)
    assert not rounds_inputs(plain)
    assert not rounds_inputs(QuantizedLinear(plain, QUANTIZATIONS["int8-weights"]))
    assert rounds_inputs(QuantizedLinear(plain, QUANTIZATIONS["int8-dynamic"]))


@pytest.mark.parametrize("precision", QUANTIZATIONS)
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_wherever_they_wait_layers_in_eight_bits_give_the_same(make: Any, precision: str) -> None:
    made = []
    for offload in ("none", "components", "blocks"):
        hot = ("vae",) if offload == "blocks" else ()
        with Engine(threads=1) as engine:
            engine.add("it", make(), Recipe(24, precision, offload, hot))
            made.append(engine.submit(pipeline="it", **call()).result(60).images)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


@pytest.mark.parametrize("precision", QUANTIZATIONS)
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_layers_in_eight_bits_take_loras_and_give_what_diffusers_gives(
    make: Any, precision: str, tmp_path: Path
) -> None:
    def plain() -> Any:
        quantize(made := make(), precision)
        return made

    pipeline = make()
    one, other = (save_lora(tmp_path, pipeline, seed, 4) for seed in (1, 2))
    with merging_engine(threads=1, max_batch=4) as engine:
        engine.add("it", pipeline, Recipe(24, precision))
        lists = [[Lora(one)], [Lora(other)], []]
        made = together(engine, [{"pipeline": "it", "loras": each, **call()} for each in lists])
        assert engine.counts()["merged_calls"] >= 6
    apart = [
        rms(images, plain_with(plain, loras)) for loras, images in zip(lists, made, strict=True)
    ]
    assert max(apart) <= DISTANCES[precision]
    assert rms(made[0], made[2]) > 2 * max(apart)


@pytest.mark.parametrize("precision", QUANTIZATIONS)
def test_a_layer_in_eight_bits_is_one_graph_for_all_numbers_of_tokens(precision: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    quantized = QuantizedLinear(layer(), QUANTIZATIONS[precision]).requires_grad_(
        requires_grad=False
    )
    compiled = torch.compile(quantized, backend="aot_eager", dynamic=True, fullgraph=True)
    for tokens in (40, 64, 99):
        x = torch.randn(2, tokens, 64, generator=torch.Generator().manual_seed(tokens))
        assert rms(compiled(x), quantized(x)) <= 1e-6
    assert counters["stats"]["unique_graphs"] == 1


def test_the_catalogue_knows_the_precisions_that_the_engine_knows() -> None:
    assert set(QUANTIZATIONS) == set(EIGHT_BITS) - {"float8"}
