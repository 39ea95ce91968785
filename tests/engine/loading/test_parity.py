"""Weights that are read straight to their places are those of ``from_pretrained``, bit for bit."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from deployments.engine.loading.loader import load_pipeline
from deployments.engine.memory.placement import placed_by, store_in_float8
from deployments.engine.reading.unread import UnreadWeight, WeightsNotRead, reading_later
from serve_app.domain.endpoint import Recipe, Weights
from tests.engine.tiny import save_tiny_flux, tiny_sd3, tiny_sdxl
from tests.fakes.accelerator import FakeAccelerator
from tests.samples import sample_params

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

DEMO = Path("deployments/demo")
FAMILIES = ("flux", "sdxl", "stable-audio", "wan")


@pytest.fixture(autouse=True)
def loader_log(caplog):
    caplog.set_level(logging.INFO, "deployments.engine.loading.loader")
    return caplog


@pytest.fixture
def flux_folder(tmp_path):
    return save_tiny_flux(tmp_path / "flux")


def usual(folder, dtype=torch.float32, **options):
    return DiffusionPipeline.from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, **options
    )


def modules_of(pipeline):
    return {k: v for k, v in pipeline.components.items() if isinstance(v, torch.nn.Module)}


def tensors_of(module):
    return dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )


def assert_same(ours, theirs):
    assert modules_of(ours).keys() == modules_of(theirs).keys()
    for name, module in modules_of(theirs).items():
        mine, its = tensors_of(getattr(ours, name)), tensors_of(module)
        assert mine.keys() == its.keys()
        for key, expected in its.items():
            it = mine[key]
            assert type(it) is type(expected), (name, key)
            assert (it.dtype, it.shape, it.stride()) == (
                expected.dtype,
                expected.shape,
                expected.stride(),
            ), (name, key)
            assert it.requires_grad == expected.requires_grad
            assert vars(it) == vars(expected)
            assert torch.equal(bits(it), bits(expected)), (name, key)
        assert tied_keys(mine) == tied_keys(its)
        assert getattr(ours, name).training is module.training


def bits(tensor):
    return tensor.detach().reshape(-1).view(torch.uint8)


def tied_keys(tensors):
    return {key: min(k for k in tensors if tensors[k] is tensors[key]) for key in tensors}


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "dtype", sample_params([torch.float32, torch.bfloat16, torch.float16], torch.bfloat16)
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_demo_models_are_loaded_as_by_their_library(family, dtype, loader_log):
    ours = load_pipeline(Weights(str(DEMO / family)), dtype=str(dtype).removeprefix("torch."))
    assert_same(ours, usual(DEMO / family, dtype))
    assert "is read by its library" not in loader_log.text


@pytest.mark.long
@pytest.mark.parametrize("make", [tiny_sdxl, tiny_sd3])
def test_pipelines_are_loaded_as_by_their_library(tmp_path, make):
    make().save_pretrained(tmp_path)
    assert_same(
        load_pipeline(Weights(str(tmp_path)), dtype="bfloat16"), usual(tmp_path, torch.bfloat16)
    )


def test_components_have_their_own_dtypes(flux_folder):
    dtypes = {"default": "bfloat16", "vae": "float32"}
    expected = {"default": torch.bfloat16, "vae": torch.float32}
    assert_same(
        load_pipeline(Weights(str(flux_folder)), dtype=dtypes), usual(flux_folder, expected)
    )


@pytest.mark.long
@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize("precision", ["bfloat16", "float8"])
@pytest.mark.parametrize("offload", sample_params(["none", "components"], "none"))
def test_what_is_read_to_a_device_is_the_same(family, precision, offload):
    recipe = Recipe(1, precision=precision, offload=offload, hot=("transformer",))
    with reading_later():
        ours = load_pipeline(Weights(str(DEMO / family)), dtype="bfloat16")
    assert all(type(parameter) is UnreadWeight for parameter in ours.transformer.parameters())
    accelerator = FakeAccelerator()
    placed_by(recipe, ours).apply(accelerator)
    theirs = usual(DEMO / family, torch.bfloat16)
    if precision == "float8":
        store_in_float8(theirs)
        assert torch.float8_e4m3fn in {
            parameter.dtype for parameter in ours.transformer.parameters()
        }
    for module in modules_of(ours).values():  # hooks are no weights
        assert not any(isinstance(tensor, UnreadWeight) for tensor in tensors_of(module).values())
    assert_same(ours, theirs)


@pytest.mark.long
def test_a_load_that_did_not_fit_on_the_device_is_right_the_second_time():
    with reading_later():
        ours = load_pipeline(Weights(str(DEMO / "flux")), dtype="bfloat16")
    placement, accelerator = placed_by(None, ours), FakeAccelerator()
    accelerator.refuse(3)
    with pytest.raises(torch.OutOfMemoryError):
        placement.apply(accelerator)
    placement.undo()
    placement.apply(accelerator)
    assert_same(ours, usual(DEMO / "flux", torch.bfloat16))


def test_shards_and_variants_are_loaded_as_by_their_library(tmp_path, flux):
    flux.save_pretrained(tmp_path, variant="fp16", max_shard_size="40KB")
    assert len([*(tmp_path / "transformer").glob("*.safetensors")]) > 2
    assert_same(
        load_pipeline(Weights(str(tmp_path), variant="fp16")), usual(tmp_path, variant="fp16")
    )


def rewrite(file, change):
    tensors = load_file(file)
    save_file(change(tensors), file, {"format": "pt"})


def test_keys_that_the_library_renames_are_found(flux_folder):
    file = next((flux_folder / "text_encoder").glob("*.safetensors"))
    rewrite(
        file,
        lambda tensors: {
            f"text_model.{k}".replace("text_model.text_model", "text_model"): v
            for k, v in tensors.items()
        },
    )
    assert_same(load_pipeline(Weights(str(flux_folder))), usual(flux_folder))


def test_a_key_that_is_missing_is_made_by_the_library(flux_folder):
    file = next((flux_folder / "text_encoder_2").glob("*.safetensors"))
    rewrite(file, lambda tensors: {k: v for k, v in tensors.items() if "final_layer_norm" not in k})
    assert_same(load_pipeline(Weights(str(flux_folder))), usual(flux_folder))


def test_weights_of_other_dtypes_in_one_file_are_cast_alike(flux_folder):
    file = next((flux_folder / "transformer").glob("*.safetensors"))
    rewrite(
        file,
        lambda tensors: {
            k: v.to(torch.float8_e4m3fn if "norm" in k else torch.float64)
            for k, v in tensors.items()
        },
    )
    ours = load_pipeline(Weights(str(flux_folder)), dtype="bfloat16")
    assert_same(ours, usual(flux_folder, torch.bfloat16))


@pytest.mark.long
def test_a_component_whose_values_the_library_needs_is_read_by_it(
    flux_folder, monkeypatch, loader_log
):
    def doubled(self, state_dict):
        state_dict["proj_out.bias"] = state_dict["proj_out.bias"] * 2

    monkeypatch.setattr(FluxTransformer2DModel, "_fix_state_dict_keys_on_load", doubled)
    assert_same(load_pipeline(Weights(str(flux_folder))), usual(flux_folder))
    assert "transformer is read by its library, which needs aten.mul" in loader_log.text
    with reading_later():
        ours = load_pipeline(Weights(str(flux_folder)))
    assert type(ours.vae.decoder.conv_in.weight) is UnreadWeight
    assert type(ours.transformer.proj_out.weight) is torch.nn.Parameter


def test_a_quantized_component_is_read_by_its_library(flux_folder):
    config = flux_folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": None}))
    with reading_later():
        ours = load_pipeline(Weights(str(flux_folder)))
    assert type(ours.transformer.proj_out.weight) is torch.nn.Parameter
    assert type(ours.vae.decoder.conv_in.weight) is UnreadWeight


def test_a_pipeline_may_be_deleted_before_its_weights_are_read(flux_folder):
    theirs = usual(flux_folder)
    for module in modules_of(theirs).values():
        for tensor in tensors_of(module).values():
            tensor.data = tensor.data.clone()  # they are mapped
    with reading_later():
        ours = load_pipeline(Weights(str(flux_folder)))
    shutil.rmtree(flux_folder)
    placed_by(None, ours).apply(FakeAccelerator())
    assert_same(ours, theirs)


def test_weights_that_were_not_read_are_not_computed_with(flux_folder):
    with reading_later():
        ours = load_pipeline(Weights(str(flux_folder)))
    with pytest.raises(WeightsNotRead):
        ours.transformer.proj_out(torch.zeros(1, ours.transformer.proj_out.in_features))
