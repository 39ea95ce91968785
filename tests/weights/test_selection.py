"""Files of a repository that a pipeline loads."""

import pytest

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from tests.weights.conftest import BESIDES, INDEX, NEEDED
from weights.folder import ListedFile, Listing
from weights.selection import select

FLUX = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
}


def select_names(*names, index=FLUX, variant=None):
    return sorted(select(names, index, variant, "house/flux"))


def test_a_published_repository_gives_what_its_index_names_and_no_twins():
    assert select_names(*NEEDED, *BESIDES, index=INDEX) == sorted(NEEDED)


def test_a_variant_is_taken_in_place_of_the_plain_weights():
    names = select_names(*NEEDED, *BESIDES, index=INDEX, variant="fp16")
    assert [name for name in names if name.endswith(".safetensors")] == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]


def test_a_component_without_the_variant_has_its_plain_weights_taken():
    names = select_names(
        "transformer/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder_2/model.safetensors",
        variant="fp16",
    )
    assert "text_encoder_2/model.safetensors" in names


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_come_with_their_index(variant):
    shard = "model-00001-of-00002" if variant is None else "model.fp16-00001-of-00002"
    index = ".index" if variant is None else ".index.fp16"
    names = [
        f"text_encoder_2/{shard}.safetensors",
        f"text_encoder_2/model.safetensors{index}.json",
    ]
    assert select_names(*names, variant=variant) == sorted(["model_index.json", *names])


def test_of_whole_and_shards_one_is_taken_as_the_library_does():
    names = [
        f"{folder}/{name}"
        for folder, stem in (
            ("transformer", "diffusion_pytorch_model"),
            ("text_encoder_2", "model"),
        )
        for name in (
            f"{stem}.safetensors",
            f"{stem}-00001-of-00001.safetensors",
            f"{stem}.safetensors.index.json",
        )
    ]
    assert select_names(*names) == [
        "model_index.json",
        "text_encoder_2/model.safetensors",
        "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
    ]


def test_a_text_encoders_second_set_under_diffusers_name_is_left_out():
    names = [
        f"text_encoder_2/{stem}{end}"
        for stem in ("model", "diffusion_pytorch_model")
        for end in ("-00001-of-00001.safetensors", ".safetensors.index.json")
    ]
    assert select_names(*names) == sorted(["model_index.json", *names[:2]])


def test_components_that_lie_at_the_root_are_found_there():
    names = select_names("model.safetensors", "config.json", "notes.md", index=FLUX)
    assert names == ["config.json", "model.safetensors", "model_index.json"]


def test_a_lora_has_no_index_and_is_taken_whole():
    names = ("pytorch_lora_weights.safetensors", "README.md", "pytorch_lora_weights.bin")
    assert select_names(*names, index=None) == ["pytorch_lora_weights.safetensors"]


def test_weights_that_are_only_pickled_are_refused_by_component():
    with pytest.raises(WeightsUnavailable, match="its transformer only as a pickle"):
        select_names("transformer/diffusion_pytorch_model.bin", "transformer/config.json")


def test_a_repository_without_safetensors_is_refused():
    with pytest.raises(WeightsUnavailable, match="no safetensors"):
        select_names("transformer/config.json")


@pytest.mark.parametrize("path", ["unet/../../x.safetensors", "/etc/x.safetensors", "a\\b.json"])
def test_a_name_that_leads_out_of_the_directory_is_refused(path):
    files = (ListedFile(path, 1, "0" * 64), ListedFile("a.safetensors", 1, "1" * 64))
    with pytest.raises(WeightsUnavailable, match="outside"):
        Listing("house/bad", "c", files, None).select_files(Weights("house/bad"))
