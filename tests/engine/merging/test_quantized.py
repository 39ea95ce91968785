"""Linear layers in 8 bits: how far they are from unquantized ones, and that their calls merge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from deployments.engine.engine import Engine
from deployments.engine.loading.loader import load_pipeline
from deployments.engine.lora.format import Lora
from deployments.engine.memory.placement import bytes_of
from deployments.engine.merging.quantized import (
    QUANTIZATIONS,
    QuantizedLinear,
    quantize,
    rounded_rows,
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
from tests.samples import sample_params
from training.image import exam
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
        for name, module in pipeline.transformer.named_modules()
        if isinstance(module, QuantizedLinear)
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


# What rounding costs, and that it rounds as the plain formula does.

DYNAMIC = {"int8-dynamic": torch.int8, "float8-dynamic": torch.float8_e4m3fn}
ODD = [0.0, -0.0, 1e-30, 1e-13, 6e4, torch.inf, -torch.inf, torch.nan]


def plainly_rounded(rows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rows = rows.float()
    most = torch.iinfo(dtype).max if dtype is torch.int8 else torch.finfo(dtype).max
    scale = (rows.abs().amax(1, keepdim=True) / most).clamp(min=1e-12)
    scaled = (rows / scale).clamp(-most, most)
    return (scaled.round() if dtype is torch.int8 else scaled).to(dtype), scale


def plainly_computed(quantized: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
    dtype = quantized.quantization.multiplies
    assert dtype is not None
    rounded, scale = plainly_rounded(x.reshape(-1, x.shape[-1]), dtype)
    rows = len(rounded)
    if dtype is torch.int8:
        rounded = functional.pad(rounded, (0, 0, 0, max(0, 17 - rows)))
        product = torch._int_mm(rounded, quantized.weight.t())[:rows] * scale * quantized.scale
    else:
        weight = quantized.weight.view(dtype).t()
        scales = {"scale_a": scale, "scale_b": quantized.scale[None]}
        product = torch._scaled_mm(
            rounded, weight, **scales, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    return product.to(x.dtype).view(*x.shape[:-1], -1) + quantized.bias


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """All bits, but for those that numbers which are none may have in several ways."""
    if tensor.is_floating_point():
        wide = tensor.float()
        tensor = torch.where(wide.isnan(), torch.nan, wide)
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("precision", DYNAMIC)
@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    shape=st.sampled_from([(1, 64), (2, 9, 64), (33, 64)]),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-30, 15),
    odd=st.lists(st.tuples(st.integers(0, 63), st.sampled_from(ODD)), max_size=3),
    transposed=st.booleans(),
)
def test_a_layer_gives_the_bits_of_the_plain_formula(
    precision: str,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    seed: int,
    exponent: int,
    odd: list[tuple[int, float]],
    transposed: bool,
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    for place, value in odd:
        x.view(-1, 64)[place % (x.numel() // 64), place] = value
    x = x.to(dtype)
    if transposed:
        x = x.mT.contiguous().mT
    rows = x.reshape(-1, 64)
    for actual, right in zip(
        rounded_rows(rows, DYNAMIC[precision]),
        plainly_rounded(rows, DYNAMIC[precision]),
        strict=True,
    ):
        assert torch.equal(bits(actual), bits(right))
    quantized = QuantizedLinear(layer().to(dtype), QUANTIZATIONS[precision])
    assert torch.equal(bits(quantized(x)), bits(plainly_computed(quantized, x)))


ALL_MANTISSAS = torch.arange(127 << 23, 128 << 23, dtype=torch.int32).view(torch.float32)
ALL_16_BITS = torch.arange(2**16, dtype=torch.int32).to(torch.int16)


@pytest.mark.long
@pytest.mark.parametrize("to", DYNAMIC.values(), ids=str)
@pytest.mark.parametrize(
    "numbers",
    [ALL_MANTISSAS, ALL_16_BITS.view(torch.bfloat16), ALL_16_BITS.view(torch.float16)],
    ids=["all mantissas of float32", "all numbers of bfloat16", "all numbers of float16"],
)
def test_the_largest_number_of_a_row_rounds_to_the_largest_of_the_type_unclamped(
    numbers: torch.Tensor, to: torch.dtype
) -> None:
    """Divided by its scale, it may exceed that by one last bit. Exponents change nothing, but for
    numbers that are too small for a scale of their own."""
    numbers = numbers[numbers.isfinite()]
    for actual, right in zip(
        rounded_rows(numbers[:, None], to), plainly_rounded(numbers[:, None], to), strict=True
    ):
        assert torch.equal(bits(actual), bits(right))


class Traffic(TorchDispatchMode):
    """Counts how often the elements of tensors of some size are read or written."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not func.is_view and func._overloadpacket not in SILENT:
            writes = [output] if isinstance(output, torch.Tensor) else output
            self.elements += sum(
                tensor.numel() for tensor in [*args, *writes] if self._counts(tensor)
            )
        return output

    def _counts(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.numel() == self.numel


aten = torch.ops.aten
SILENT = [aten.empty, aten.new_empty, aten._scaled_mm, aten._int_mm]


@pytest.mark.parametrize(
    ("precision", "of_input", "of_output"),
    [
        # The largest number of each row; the division, which writes 8 bits. The bias.
        ("float8-dynamic", 1 + 2, 2),
        # The largest; the division; rounding; conversion. The scale of rows, that of outputs; bias.
        ("int8-dynamic", 1 + 2 + 2 + 2, 2 + 2 + 2),
    ],
)
def test_beside_the_product_inputs_and_outputs_pass_through_memory_a_few_times(
    precision: str, of_input: int, of_output: int
) -> None:
    original = nn.Linear(128, 256).bfloat16()
    quantized = QuantizedLinear(original, QUANTIZATIONS[precision])
    x = torch.randn(40, 128).bfloat16()
    with torch.no_grad(), Traffic(x.numel()) as inputs:
        quantized(x)
    with torch.no_grad(), Traffic(40 * 256) as outputs:
        quantized(x)
    assert inputs.elements <= of_input * x.numel()
    assert outputs.elements <= of_output * 40 * 256


# What the demo models draw.

OF_IMAGES = {"int8-weights": 0.004, "int8-dynamic": 0.006, "float8-dynamic": 0.015}
"""Relative root mean square of pixels. Measured with Flux: 0.0015, 0.0025, 0.0066; with SDXL less
than half of that."""
PROMPTS = ["a green triangle", "a cyan heart", "a blue square", "a red circle"] * 2
ASKED = [tuple(prompt.split()[1:]) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=["flux", "sdxl"])
def reference(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any], list[Any]]:
    pipeline = load_pipeline(Weights(str(DEMO / request.param)))
    how = {"flux": {"steps": 4}, "sdxl": {"steps": 12, "guidance": 3.0}}[request.param]
    how["size"] = (128, 128)
    return pipeline, how, exam.draw(pipeline, PROMPTS, seeds=range(8), **how)


@pytest.mark.long
@pytest.mark.parametrize("precision", sample_params(QUANTIZATIONS, "float8-dynamic"))
def test_demo_models_draw_the_same_colours_and_shapes_in_eight_bits(
    reference: tuple[Any, dict[str, Any], list[Any]], precision: str
) -> None:
    pipeline, how, images = reference
    denoiser = "transformer" if hasattr(pipeline, "transformer") else "unet"
    small = type(pipeline)(
        **{**pipeline.components, denoiser: copy.deepcopy(getattr(pipeline, denoiser))}
    )
    quantize(small, precision)
    drawings = exam.draw(small, PROMPTS, seeds=range(8), **how)
    seen = [[(sight.colour, sight.shape) for sight in read(image).sights] for image in drawings]
    assert seen == [[look] for look in ASKED]
    assert rms(pixels(drawings), pixels(images)) <= OF_IMAGES[precision]


def pixels(images: list[Any]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)) for image in images])


# In the engine.


@pytest.mark.long
@pytest.mark.parametrize("precision", sample_params(QUANTIZATIONS, "int8-dynamic"))
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
        for generation in running:
            generation.result(100)
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


@pytest.mark.long
@pytest.mark.parametrize("precision", sample_params(QUANTIZATIONS, "int8-dynamic"))
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_wherever_they_wait_layers_in_eight_bits_give_the_same(make: Any, precision: str) -> None:
    results = []
    for offload in ("none", "components", "blocks"):
        hot = ("vae",) if offload == "blocks" else ()
        with Engine(threads=1) as engine:
            engine.add("it", make(), Recipe(24, precision, offload, hot))
            results.append(engine.submit(pipeline="it", **call()).result(60).images)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.long
@pytest.mark.parametrize("precision", QUANTIZATIONS)
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_layers_in_eight_bits_take_loras_and_give_what_diffusers_gives(
    make: Any, precision: str, tmp_path: Path
) -> None:
    def plain() -> Any:
        quantize(model := make(), precision)
        return model

    pipeline = make()
    first, other = (save_lora(tmp_path, pipeline, seed, 4) for seed in (1, 2))
    with merging_engine(threads=1, max_batch=4) as engine:
        engine.add("it", pipeline, Recipe(24, precision))
        lists = [[Lora(first)], [Lora(other)], []]
        results = together(
            engine, [{"pipeline": "it", "loras": lora_list, **call()} for lora_list in lists]
        )
        assert engine.counts()["merged_calls"] >= 6
    apart = [
        rms(images, plain_with(plain, loras)) for loras, images in zip(lists, results, strict=True)
    ]
    assert max(apart) <= DISTANCES[precision]
    assert rms(results[0], results[2]) > 2 * max(apart)


@pytest.mark.long
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
