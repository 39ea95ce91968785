"""Differences of weights, biases and norms, as distillations of Wan have them, in generations."""

import pytest
import torch
from safetensors.torch import save_file

from deployments.engine.engine import Engine
from deployments.engine.lora.format import Lora, merge_lora
from tests.engine.calls import call
from tests.engine.gate import merging_engine
from tests.engine.lora.layouts import FAMILIES, LAYOUTS, layer_of, write
from tests.engine.loras import save_lora
from tests.engine.tiny import tiny_flux, tiny_sdxl
from tests.engine.with_loras import relative, together

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("one_torch_thread"),
]


def make_distilled_lora(folder, make):
    """A LoRA with differences of biases and norms, and the pipeline with them in its weights."""
    family = "FLUX.1" if make is tiny_flux else "SDXL"
    pipeline, file = make(), folder / f"{family}.safetensors"
    layout = LAYOUTS["lightx2v, CausVid, AccVid"]
    expected = write(pipeline, FAMILIES[family], layout, file)
    for name, (weight, bias) in expected.items():
        layer = layer_of(pipeline, name)
        layer.weight.data += weight
        if bias is not None:
            before = 0 if layer.bias is None else layer.bias.data
            layer.bias = torch.nn.Parameter(before + bias)
    return Lora(file), pipeline


@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_differences_of_biases_and_norms_are_applied_and_merged(make, tmp_path):
    lora, changed = make_distilled_lora(tmp_path, make)
    with torch.no_grad():
        expected = changed(**call(steps=2)).images
    base = make()
    with Engine(base, threads=1) as engine:
        before = engine.submit(**call(steps=2)).result(60).images
        generation = engine.submit(loras=[lora], **call(steps=2))
        images = generation.result(60).images
        after = engine.submit(**call(steps=2)).result(60).images
    assert relative(before, expected) > 1e-3
    assert relative(images, expected) <= 1e-5
    assert torch.equal(before, after)
    ((number, note),) = generation.lora_notes
    assert number == 0
    assert "norm_of_no_model.diff): zeros change nothing." in note
    merge_lora(base, lora.file)
    assert relative(base(**call(steps=2)).images, expected) <= 1e-4


@pytest.mark.long
@pytest.mark.parametrize("make", [tiny_flux, tiny_sdxl])
def test_rows_with_differences_share_forwards_with_others(make, tmp_path):
    lora, _ = make_distilled_lora(tmp_path, make)
    plain = Lora(save_lora(tmp_path, make(), 1, 2), 0.5)
    lora_lists = [[lora], [], [plain], [Lora(lora.file, 0.5), plain]]
    calls = [{**call(seed=seed), "loras": its} for seed, its in enumerate(lora_lists)]
    with merging_engine(make(), max_batch=8, threads=1, verify_merges=True) as engine:
        alone = [
            engine.submit(**{**fields, "generator": make_generator(n)}).result(60).images
            for n, fields in enumerate(calls)
        ]
        before = engine.counts()["merged_calls"]
        images = together(
            engine, [{**fields, "generator": make_generator(n)} for n, fields in enumerate(calls)]
        )
        counts = engine.counts()
    assert counts["merged_calls"] - before >= 3 * len(calls)
    assert not {"failed when merged", "differs when merged"} & counts["not_merged"].keys()
    for image, other in zip(images, alone, strict=True):
        assert relative(image, other) <= 1e-5


def test_t5_of_flux_is_changed_too(tmp_path):
    """kohya's trainer trains it as the third text encoder."""
    pipeline, file = tiny_flux(), tmp_path / "t5.safetensors"
    layer = pipeline.text_encoder_2.encoder.block[0].layer[0].SelfAttention.q
    out, columns = layer.weight.shape
    name = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    down, up = torch.randn(2, columns), torch.randn(out, 2)
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, file)
    with Engine(tiny_flux(), threads=1) as engine:
        images = engine.submit(loras=[Lora(file)], **call(steps=2)).result(60).images
        plain = engine.submit(**call(steps=2)).result(60).images
    layer.weight.data += up @ down
    expected = pipeline(**call(steps=2)).images
    assert relative(images, expected) <= 1e-5
    assert relative(plain, expected) > 1e-4


def test_a_bias_that_a_layer_does_not_have_is_added(tmp_path):
    pipeline, file = tiny_sdxl(), tmp_path / "bias.safetensors"
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = pipeline.unet.get_submodule(name)
    assert layer.bias is None
    bias = torch.randn(len(layer.weight))
    save_file({f"unet.{name}.diff_b": bias}, file)
    with Engine(tiny_sdxl(), threads=1) as engine:
        images = engine.submit(loras=[Lora(file)], **call(steps=2)).result(60).images
    merge_lora(pipeline, file)
    assert torch.allclose(layer.bias, bias)
    assert relative(images, pipeline(**call(steps=2)).images) <= 1e-5


def make_generator(seed):
    return torch.Generator().manual_seed(seed)
