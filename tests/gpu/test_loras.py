"""LoRAs on the device: alone, mixed in one forward, and with streamed blocks."""

import pytest
import torch

from deployments.engine.lora.format import Lora
from serve_app.domain.endpoint import Recipe
from tests.engine.calls import call
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.with_loras import plain_with
from tests.gpu.device import MARKS, ON_GPU, RESULT_S, engine_of, on_device, relative, run_merged

pytestmark = [
    *MARKS,
    # peft, of the second LoRA that diffusers itself loads
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]

MAKERS = {"flux": tiny_flux, "sdxl": tiny_sdxl}
WITHIN = 5e-3 if ON_GPU else 1e-5  # convolutions keep 10 bits


def save_loras(folder, make, count=2):
    return [save_lora(folder, make(), seed, rank=2 * seed) for seed in range(1, count + 1)]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_each_of_a_mixed_forward_gets_what_its_loras_make_alone(make, tmp_path):
    files = save_loras(tmp_path, make)
    lora_lists = [
        [Lora(files[0])],
        [],
        [Lora(files[1], 0.5)],
        [Lora(files[0], 0.7), Lora(files[1])],
    ]
    calls = [
        {**call(seed=n, steps=4), "loras": lora_list} for n, lora_list in enumerate(lora_lists)
    ]
    with engine_of(on_device(make())) as engine:
        for file in files:  # loaded before, so that the generations meet
            engine.submit(loras=[Lora(file)], **call(steps=1)).result(RESULT_S)
        results = run_merged(engine, calls)
        counts = engine.counts()
    for number, (result, chosen) in enumerate(zip(results, lora_lists, strict=True)):
        expected = plain_with(lambda: on_device(make()), chosen, seed=number, steps=4)
        assert relative(result.images, expected) <= WITHIN
    assert counts["merged_calls"] >= 12
    assert not {"failed when merged", "differs when merged"} & counts["not_merged"].keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_mixed_rows_stay_near_those_alone(dtype, tmp_path):
    files = save_loras(tmp_path, tiny_flux)
    # Larger changes are not merged: their rounding is beyond that of the first call beside itself.
    lora_lists = [[Lora(files[0], 0.001)], [], [Lora(files[1], 0.001)]]
    calls = [
        {**call(seed=n, steps=4), "loras": lora_list} for n, lora_list in enumerate(lora_lists)
    ]
    with engine_of(on_device(tiny_flux(), dtype)) as engine:
        for file in files:
            engine.submit(loras=[Lora(file)], **call(steps=1)).result(RESULT_S)
        alone = [
            engine.submit(deterministic=True, **fields).result(RESULT_S)
            for fields in [
                {**call(seed=n, steps=4), "loras": chosen} for n, chosen in enumerate(lora_lists)
            ]
        ]
        results = run_merged(engine, calls)
        assert engine.counts()["merged_calls"] >= 8
    for result, other in zip(results, alone, strict=True):
        assert relative(result.images, other.images) <= 5e-2


def test_after_the_last_lora_the_model_gives_its_own_bits_again(tmp_path):
    (file,) = save_loras(tmp_path, tiny_flux, 1)
    pipeline = on_device(tiny_flux())
    plain = pipeline(**call()).images
    with engine_of(pipeline) as engine:
        changed = engine.submit(loras=[Lora(file)], **call()).result(RESULT_S).images
        after = engine.submit(**call()).result(RESULT_S).images
    assert relative(changed, plain) > 1e-3
    assert torch.equal(after.cpu(), plain.cpu())


def test_loras_work_where_blocks_are_streamed(tmp_path):
    (file,) = save_loras(tmp_path, tiny_flux, 1)
    recipe = Recipe(12, "float32", "blocks", ("vae", "text_encoder", "text_encoder_2"))
    expected = plain_with(lambda: on_device(tiny_flux()), [Lora(file)])
    without = plain_with(lambda: on_device(tiny_flux()), [])
    with engine_of() as engine:
        engine.add("flux", tiny_flux(), recipe)
        result = engine.submit(pipeline="flux", loras=[Lora(file)], **call()).result(RESULT_S)
        plain = engine.submit(pipeline="flux", **call()).result(RESULT_S)
    assert relative(result.images, expected) <= WITHIN
    assert relative(plain.images, without) <= WITHIN
