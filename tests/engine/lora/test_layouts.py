"""Every layout of trainers, in the names of every family, changes exactly what it has to change."""

from functools import cache

import pytest
import torch
from safetensors.torch import save_file

from deployments.engine.lora.format import read_lora
from serve_app.domain.errors import Misconfigured
from tests.engine.conformance.families import wan
from tests.engine.lora.layouts import FAMILIES, LAYOUTS, layer_of, only, write

pytestmark = pytest.mark.engine

CELLS = [
    (family, layout) for layout, its in LAYOUTS.items() for family in FAMILIES if family in its.only
]


@cache
def make_pipeline(family):
    return FAMILIES[family].make()


def differences(pipeline, changes):
    """What the changes add to weights and biases."""
    deltas = {}
    for name, change in changes.items():
        layer = layer_of(pipeline, name)
        weight = layer.weight.detach().float()
        bias = getattr(change, "bias", None)
        deltas[name] = change.merge(weight, 1.0) - weight, bias
    return deltas


def error(actual, expected):
    return float((actual.reshape(expected.shape) - expected).norm() / expected.norm())


@pytest.mark.variants(23)
@pytest.mark.parametrize(("family", "layout"), CELLS)
def test_each_tensor_changes_its_layer(family, layout, tmp_path):
    pipeline, file = make_pipeline(family), tmp_path / "lora.safetensors"
    expected = write(pipeline, FAMILIES[family], LAYOUTS[layout], file)
    contents = read_lora(pipeline, file)
    actual = differences(pipeline, contents.changes)
    assert actual.keys() == expected.keys()
    for name, (weight, bias) in expected.items():
        assert error(actual[name][0], weight) <= 2e-3, name
        assert (bias is None) == (actual[name][1] is None), name
        assert bias is None or error(actual[name][1], bias) <= 2e-3, name
    zeros = "zeros" in LAYOUTS[layout].more
    assert bool(contents.notes) == zeros


def flux_pair(name, out=32, columns=32):
    return {
        f"{name}.lora_down.weight": torch.ones(2, columns),
        f"{name}.lora_up.weight": torch.ones(out, 2),
    }


def save_state(folder, state):
    file = folder / "lora.safetensors"
    save_file(state, file)
    return file


@pytest.mark.parametrize("number", [2, 3])
def test_t5_of_flux_is_found_as_the_second_and_as_the_third_encoder(number, tmp_path):
    """OneTrainer counts it as the second, kohya's trainer as the third."""
    name = f"lora_te{number}_encoder_block_0_layer_0_SelfAttention_q"
    contents = read_lora(make_pipeline("FLUX.1"), save_state(tmp_path, flux_pair(name)))
    assert [*contents.changes] == ["text_encoder_2.encoder.block.0.layer.0.SelfAttention.q"]


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("FLUX.2", "lora_te_text_model_encoder_layers_0_mlp_fc1"),
        ("FLUX.2", "diffusion_model.no_such_layer"),
        ("FLUX.1", "lora_vae_decoder_conv_in"),
        ("Wan", "diffusion_model.blocks.77.self_attn.q"),
    ],
)
def test_a_layer_that_the_model_lacks_is_refused_by_its_name(family, name, tmp_path):
    known = FAMILIES[family]
    pipeline = make_pipeline(family)
    first = next(iter(known.layers.values()))[0]
    weight = layer_of(pipeline, f"transformer.{first}").weight
    state = flux_pair(f"transformer.{first}", *weight.shape) | flux_pair(name)
    with pytest.raises(Misconfigured, match=f"has no {name}"):
        read_lora(pipeline, save_state(tmp_path, state))


def test_a_lora_for_images_as_conditions_says_what_a_model_of_texts_leaves_out(tmp_path):
    text_to_video = only("WanPipeline", transformer=wan.transformer())
    state = flux_pair("diffusion_model.blocks.0.self_attn.q", 24, 24)
    state |= flux_pair("diffusion_model.blocks.0.cross_attn.k_img", 24, 24)
    contents = read_lora(text_to_video, save_state(tmp_path, state))
    assert [*contents.changes] == ["transformer.blocks.0.attn1.to_q"]
    (note,) = contents.notes
    assert "cross_attn.k_img" in note
    assert "takes no image" in note


def test_layers_that_are_in_a_file_twice_are_applied_once(tmp_path):
    """Anime-Z writes query, key and value both as one and apart."""
    state = flux_pair("layers.0.attention.qkv", 96)
    for letter in "qkv":
        state |= flux_pair(f"layers.0.attention.to.{letter}")
    contents = read_lora(make_pipeline("Z-Image"), save_state(tmp_path, state))
    assert len(contents.changes) == 3
    assert "under other names too" in contents.notes[0]


def test_embeddings_that_onetrainer_bundles_are_left_out_with_a_note(tmp_path):
    state = flux_pair("transformer.proj_out", 16) | {"bundle_emb.word.clip_l": torch.ones(1, 32)}
    contents = read_lora(make_pipeline("FLUX.1"), save_state(tmp_path, state))
    assert "embeddings of tokens" in contents.notes[0]


def test_a_partial_file_of_a_trainer_is_applied(tmp_path):
    name = "base_model.model.double_blocks.0.img_attn.proj"
    contents = read_lora(make_pipeline("FLUX.1"), save_state(tmp_path, flux_pair(name)))
    assert [*contents.changes] == ["transformer.transformer_blocks.0.attn.to_out.0"]


def test_a_convolution_with_a_third_matrix_is_applied(tmp_path):
    """LoCon's, of which LyCORIS makes such files."""
    pipeline, layer = make_pipeline("SDXL"), "mid_block.resnets.0.conv1"
    weight = layer_of(pipeline, f"unet.{layer}").weight
    down, up = torch.randn(3, weight.shape[1], 1, 1), torch.randn(len(weight), 3, 1, 1)
    core = torch.randn(3, 3, *weight.shape[2:])
    name = "lora_unet_middle_block_0_in_layers_2"
    state = {f"{name}.lora_{part}.weight": tensor
             for part, tensor in (("down", down), ("up", up), ("mid", core))}  # fmt: skip
    (change,) = read_lora(pipeline, save_state(tmp_path, state)).changes.values()
    expected = torch.einsum("or,rskl,si->oikl", up[..., 0, 0], core, down[..., 0, 0])
    assert error(change.merge(torch.zeros(weight.shape), 1.0), expected) <= 1e-5
