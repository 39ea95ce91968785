"""The demo models in half precision: alone bit for bit as without an engine, and merged within what
other kernels change."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from deployments.engine.merging.verification import agree, low_precision_dtype
from tests.engine.calls import call as tiny_call
from tests.engine.demo_calls import CALLS, call, made_of
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.gpu.device import (
    DEVICE,
    HALVES,
    MARKS,
    RESULT_S,
    apart,
    demo,
    engine_of,
    on_device,
    relative,
    run_merged,
)

pytestmark = MARKS

PROMPTS = ("a red circle moving left", "a green star moving right", "a yellow heart moving up")


def wish(family, number):
    return {**call(family, number, 4 + number % 2), "prompt": PROMPTS[number]}


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("dtype", [*HALVES, "float32"])
def test_alone_a_demo_model_gives_the_bits_of_plain_diffusers(family, dtype):
    pipeline = demo(family, dtype)
    plain = made_of(pipeline(**wish(family, 0)))
    with engine_of(pipeline) as engine:
        alone = engine.submit(deterministic=True, **wish(family, 0)).result(RESULT_S)
        again = engine.submit(**wish(family, 0)).result(RESULT_S)
    assert torch.equal(made_of(alone).cpu(), plain.cpu())
    assert torch.equal(made_of(again).cpu(), plain.cpu())


@pytest.mark.parametrize("family", CALLS)
@pytest.mark.parametrize("dtype", HALVES)
def test_merging_changes_no_more_than_other_kernels_do(family, dtype):
    pipeline = demo(family, dtype)
    plain = [made_of(pipeline(**wish(family, number))) for number in range(3)]
    with sdpa_kernel(SDPBackend.MATH):
        otherwise = [made_of(pipeline(**wish(family, number))) for number in range(3)]
    with engine_of(pipeline) as engine:
        merged = [
            made_of(result) for result in run_merged(engine, [wish(family, n) for n in range(3)])
        ]
        counts = engine.counts()
    assert counts["merged_calls"] >= 8
    assert "failed when merged" not in counts["not_merged"]
    assert "differs when merged" not in counts["not_merged"]
    # Half precision has some noise even where other kernels happen to add up alike.
    assert apart(plain, merged) <= max(1.5 * apart(plain, otherwise), 4e-3)


@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_in_32_bits_merging_changes_nothing_that_can_be_seen(make):
    pipeline = on_device(make())
    calls = [{**tiny_call(seed=seed)} for seed in range(4)]
    plain = [pipeline(**tiny_call(seed=seed)).images for seed in range(4)]
    with engine_of(pipeline) as engine:
        merged = [result.images for result in run_merged(engine, calls)]
        assert engine.counts()["merged_calls"] >= 8
    for image, other in zip(merged, plain, strict=True):
        assert relative(image, other) <= 5e-3  # convolutions keep 10 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_rule_of_agreement_takes_a_real_layer_and_refuses_a_wrong_one(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(
        torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512)
    ).to(DEVICE, dtype)
    rows = [torch.randn(1, 64, 512, device=DEVICE).to(dtype) for _ in range(4)]
    with torch.no_grad():
        alone = [layer(row) for row in rows]
        merged = list(layer(torch.cat(rows)).split(1))
        beside_itself = layer(torch.cat([rows[0]] * 4))[:1]
    low = low_precision_dtype(alone, dtype)
    assert low == dtype
    assert agree(merged, alone, low, {0: beside_itself})
    assert not agree([merged[1], *merged[1:]], alone, low, {0: beside_itself})
