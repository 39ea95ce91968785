"""Products in 8 bits, by the kernels of the device: alone, merged, and with LoRAs."""

import pytest
import torch

from deployments.engine.accelerator.selection import accelerator_for
from deployments.engine.lora.format import Lora
from deployments.engine.merging.quantized import QUANTIZATIONS, QuantizedLinear
from serve_app.domain.endpoint import Recipe
from tests.engine.calls import call
from tests.engine.demo_calls import call as demo_call
from tests.engine.demo_calls import made_of
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux
from tests.gpu.device import (
    DEVICE,
    MARKS,
    RESULT_S,
    demo,
    engine_of,
    fresh_demo,
    on_device,
    relative,
    run_merged,
)

pytestmark = MARKS

DYNAMIC = [
    name for name, quantization in QUANTIZATIONS.items() if quantization.multiplies is not None
]
DISTANCES = {"int8-dynamic": 0.015, "float8-dynamic": 0.045}
"""Relative root mean square of what a layer of normal numbers may lose, as on a CPU."""
OF_IMAGES = {"int8-dynamic": 0.03, "float8-dynamic": 0.06}


def needs_products(precision):
    if not accelerator_for(DEVICE).multiplies(QUANTIZATIONS[precision].multiplies):
        pytest.skip(f"this device does not multiply as {precision} needs it")


@pytest.mark.parametrize("precision", DYNAMIC)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 16, 17, 77, 4096])
def test_a_layer_gives_what_it_gave_within_its_precision(precision, dtype, rows):
    needs_products(precision)
    torch.manual_seed(0)
    original = torch.nn.Linear(512, 768).to(DEVICE, dtype)
    quantized = QuantizedLinear(original, QUANTIZATIONS[precision])
    inputs = torch.randn(rows, 512, device=DEVICE).to(dtype)
    with torch.no_grad():
        output, right = quantized(inputs), original(inputs)
    assert (output.dtype, output.device.type) == (dtype, right.device.type)
    assert 1e-4 < relative(output, right) <= DISTANCES[precision]


@pytest.mark.parametrize("precision", DYNAMIC)
def test_calls_with_and_without_loras_merge_in_8_bits(precision, tmp_path):
    """Merged they are as near to those alone as a rounding to 8 bits that falls otherwise."""
    needs_products(precision)
    file = save_lora(tmp_path, tiny_flux(), 1)
    pipeline = tiny_flux().to(dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    lora_lists = [[], [Lora(file, 0.001)], [], [Lora(file, 0.002)]]
    with engine_of() as engine:
        engine.add("it", pipeline, Recipe(24, precision))
        layers = list(pipeline.transformer.modules())
        assert any(isinstance(layer, QuantizedLinear) for layer in layers)

        def wishes(**more):
            calls = [{"pipeline": "it", **call(seed=n), **more} for n in range(len(lora_lists))]
            return [{**fields, "loras": own} for fields, own in zip(calls, lora_lists, strict=True)]

        alone = [
            engine.submit(**wish).result(RESULT_S).images for wish in wishes(deterministic=True)
        ]
        results = [result.images for result in run_merged(engine, wishes())]
        counts = engine.counts()
    assert counts["merged_calls"] >= 6
    assert not {"failed when merged", "differs when merged"} & counts["not_merged"].keys()
    plain = [on_device(tiny_flux(), torch.bfloat16)(**call(seed=n)).images for n in range(4)]
    for merged, single, usual in zip(results, alone, plain, strict=True):
        assert merged.isfinite().all()
        assert relative(merged, single) <= 5e-2
        assert relative(single, usual) <= 0.1  # the LoRAs are small


@pytest.mark.parametrize("precision", DYNAMIC)
def test_a_demo_model_in_8_bits_draws_nearly_the_same(precision):
    needs_products(precision)
    plain = made_of(demo("flux", "bfloat16")(**demo_call("flux", 0, 4)))
    with engine_of() as engine:
        engine.add("it", fresh_demo("flux", "bfloat16"), Recipe(24, precision))
        wish = {"pipeline": "it", **demo_call("flux", 0, 4)}
        output = made_of(engine.submit(**wish).result(RESULT_S))
    distance = (output.float().cpu() - plain.float().cpu()).square().mean().sqrt()
    assert 0 < float(distance) <= OF_IMAGES[precision]
