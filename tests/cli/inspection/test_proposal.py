"""Entries that `darkroom models add` proposes for pipeline classes of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deployments.families import audio, generic, video
from deployments.families.call_mapping import check_arguments, mapping_of
from serve_app.catalog.catalog import BUILT_IN, StoredEntry, build_stored
from serve_app.catalog.entries import EntryBuilder
from serve_app.catalog.fields.drafts import makes_drafts
from serve_app.catalog.source import SourceFile
from serve_app.cli.inspection.pipeline_call import read_call
from serve_app.cli.inspection.proposal import ONE_DTYPE, like, propose
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import DarkroomError, Misconfigured

TASKS = {"generic": generic.TASKS, "video": video.TASKS, "audio": audio.TASKS}
BUILDER = EntryBuilder(demo=False, demo_dir=Path("/"))


def unknown(component: str) -> Mapping[str, Any]:
    del component
    return {}


def build_endpoint(entry: Mapping[str, Any]) -> Endpoint:
    """Endpoint of an entry. Raises if the catalogue would refuse it."""
    stored = StoredEntry("house/x", {**entry, "weights": {"directory": "/srv/x"}})
    return build_stored(BUILDER, stored, strict=True).endpoint


@pytest.mark.parametrize(
    ("name", "family", "schema", "task"),
    [
        ("FluxPipeline", "flux", "flux-text-to-image", "text-to-image"),
        ("StableDiffusionXLPipeline", "sdxl", "sdxl-text-to-image", "text-to-image"),
        ("StableDiffusion3Pipeline", "generic", "declared", "text-to-image"),
        ("StableDiffusion3Img2ImgPipeline", "generic", "declared", "image-to-image"),
        ("StableDiffusionInpaintPipeline", "generic", "declared", "inpainting"),
        ("StableDiffusionControlNetPipeline", "generic", "declared", "text-to-image"),
        ("Kandinsky5T2IPipeline", "generic", "declared", "text-to-image"),
        ("DDPMPipeline", "generic", "declared", "text-to-image"),
        ("CogVideoXPipeline", "video", "declared", "text-to-video"),
        ("WanImageToVideoPipeline", "video", "declared", "image-to-video"),
        ("WanAnimatePipeline", "video", "declared", "video-to-video"),
        ("AudioLDM2Pipeline", "audio", "declared", "text-to-audio"),
        ("QwenImageLayeredPipeline", "generic", "declared", "image-to-image"),
        ("MarigoldDepthPipeline", "generic", "declared", "image-to-image"),
        ("StableAudio3AudioToAudioPipeline", "audio", "declared", "audio-to-audio"),
    ],
)
def test_family_schema_and_task_follow_from_the_class(
    name: str, family: str, schema: str, task: str
) -> None:
    endpoint = build_endpoint(propose(read_call(name), unknown))
    assert (endpoint.family, endpoint.schema) == (family, schema)
    assert endpoint.options["task"] == endpoint.category == task


def test_an_entry_says_what_comes_in_place_of_images() -> None:
    assert propose(read_call("QwenImageLayeredPipeline"), unknown)["options"]["result"] == {
        "type": "layers"
    }
    depth = propose(read_call("MarigoldDepthPipeline"), unknown)["options"]
    assert (depth["result"], depth["dtype"]) == ({"type": "depth"}, "float32")
    assert "result" not in propose(read_call("QwenImageEditPipeline"), unknown)["options"]


def test_the_weights_name_the_maps_of_an_image() -> None:
    targets = {
        "target_names": ["albedo", "material"],
        "material": {"prediction_space": "stack", "sub_target_names": ["roughness", None, None]},
    }
    call = read_call("MarigoldIntrinsicsPipeline", {"target_properties": targets})
    assert propose(call, unknown)["options"]["result"] == {
        "type": "intrinsics",
        "fields": ["albedo", "roughness", "material"],
    }
    wrong = read_call(call.name, {"target_properties": {"target_names": ["seed"]}})
    with pytest.raises(Misconfigured, match="'seed' cannot be the name of a field"):
        propose(wrong, unknown)


def test_an_endpoint_with_another_result_is_not_copied() -> None:
    source = {"family": "generic", "schema": "declared", "options": {"result": {"type": "normals"}}}
    with pytest.raises(Misconfigured, match=r"`options.result` is not what MarigoldDepthPipeline"):
        like("house/x", source, read_call("MarigoldDepthPipeline"))


def test_sizes_are_those_of_the_denoiser() -> None:
    configs = {
        "transformer": {"sample_size": 64},
        "vae": {"block_out_channels": [1, 2, 3, 4]},
    }
    entry = propose(read_call("StableDiffusion3Pipeline"), lambda name: configs.get(name, {}))
    size = entry["options"]["inputs"]["image_size"]
    assert size == {"type": "size", "default": {"width": 512, "height": 512}}


def test_a_video_has_as_many_frames_as_the_denoiser_was_made_for() -> None:
    configs = {"unet": {"num_frames": 25}}
    call = read_call("StableVideoDiffusionPipeline")
    entry = propose(call, lambda name: configs.get(name, {}))
    assert entry["options"]["inputs"]["num_frames"]["default"] == 25


def test_a_flux_model_without_guidance_takes_few_steps() -> None:
    call = read_call("FluxPipeline")
    assert propose(call, unknown)["defaults"]["num_inference_steps"] == 28
    distilled = propose(call, lambda _: {"guidance_embeds": False})
    assert distilled["defaults"]["num_inference_steps"] == 4


@pytest.mark.parametrize(
    ("name", "category"),
    [("ShapEPipeline", "text-to-3d"), ("ShapEImg2ImgPipeline", "image-to-3d")],
)
def test_a_pipeline_that_makes_meshes_gets_an_entry_of_them(name: str, category: str) -> None:
    entry = propose(read_call(name), unknown)
    assert entry["category"] == category
    assert entry["options"]["result"] == {"type": "mesh"}
    assert not {"num_images", "frame_size", "image_size"} & entry["options"]["inputs"].keys()


def test_a_pipeline_that_makes_an_image_with_its_depth_gets_an_entry_of_both() -> None:
    entry = propose(read_call("StableDiffusionLDM3DPipeline"), unknown)
    assert entry["category"] == "text-to-image"
    assert entry["options"]["result"] == {"type": "image_and_depth"}
    assert entry["options"]["dtype"] == "float32"
    assert "num_images" not in entry["options"]["inputs"]


@pytest.mark.parametrize(
    ("name", "replaced"),
    [("LLaDA2Pipeline", ["prompt"]), ("DiffusionGemmaPipeline", ["prompt", "image_url"])],
)
def test_a_pipeline_that_makes_text_gets_an_entry_of_it(name: str, replaced: list[str]) -> None:
    entry = propose(read_call(name), unknown)
    assert (entry["family"], entry["category"]) == ("generic", "text-to-text")
    assert entry["options"]["result"] == {"type": "text"}
    inputs = entry["options"]["inputs"]
    assert "required" not in inputs["prompt"]
    assert inputs["messages"]["instead_of"] == replaced
    assert {"role", "content"} == inputs["messages"]["fields"].keys()
    assert (inputs["gen_length"]["least"], inputs["temperature"]["least"]) == (1, 0)
    assert not {"eos_token_id", "mask_token_id", "image_size", "seconds_total"} & inputs.keys()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("KandinskyPipeline", "needs image_embeds, which no field of a request gives: it is a ten"),
        (
            "KandinskyPriorPipeline",
            "returns neither images, videos, audio nor text, but image_embeds",
        ),
        ("MarigoldIntrinsicsPipeline", "their index has no `target_properties`"),
        ("AudioDiffusionPipeline", "takes no duration by a known name"),
        ("os", "has no pipeline os"),
    ],
)
def test_a_class_that_no_family_can_call_is_refused_with_the_reason(name: str, words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        propose(read_call(name), unknown)


@pytest.mark.long
def test_each_built_in_endpoint_can_be_copied() -> None:
    names = {
        "flux": "FluxPipeline",
        "sdxl": "StableDiffusionXLPipeline",
        "fal-ai/z-image/turbo": "ZImagePipeline",
        "fal-ai/qwen-image": "QwenImagePipeline",
        "fal-ai/ltx-video": "LTXPipeline",
        "fal-ai/stable-audio": "StableAudioPipeline",
    }
    for endpoint_id, source in SourceFile(BUILT_IN).read().endpoints.items():
        name = names.get(endpoint_id) or names.get(source.family)
        if name is not None:
            written = source.model_dump(mode="json", by_alias=True, exclude_unset=True)
            copied = build_endpoint(like(endpoint_id, written, read_call(name)))
            assert len(copied.recipes) == len(source.recipes)


@pytest.mark.parametrize(
    ("name", "makes"), [("HunyuanImagePipeline", False), ("StableDiffusion3Pipeline", True)]
)
def test_a_pipeline_that_makes_no_drafts_offers_none(name: str, makes: bool) -> None:
    endpoint = build_endpoint(propose(read_call(name), unknown))
    assert makes_drafts(endpoint) is makes


def test_an_endpoint_of_another_kind_is_not_copied() -> None:
    flux = {"family": "flux", "schema": "flux-text-to-image"}
    with pytest.raises(Misconfigured, match="StableDiffusionXLPipeline is of the family sdxl"):
        like("fal-ai/flux/dev", flux, read_call("StableDiffusionXLPipeline"))
    mapped = {"family": "generic", "schema": "x", "options": {"fixed": {"strange": 1}}}
    with pytest.raises(Misconfigured, match="has no argument strange"):
        like("house/x", mapped, read_call("StableDiffusion3Pipeline"))


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_arguments_are_those_of_the_real_classes() -> None:
    """The source is parsed as Python would read it, and families accept the entries."""
    from deployments.engine.pipelines import pipeline_class  # noqa: PLC0415
    from tests.engine.conformance import classes  # noqa: PLC0415

    served = 0
    for name, kind in classes.pipeline_classes().items():
        if hasattr(kind, "_backends") or classes.why_absent(name).startswith("deprecated"):
            continue
        try:
            call = read_call(name)
            entry = propose(call, unknown)
        except DarkroomError:
            continue
        endpoint = build_endpoint(entry)
        if (tasks := TASKS.get(endpoint.family)) is not None:
            check_arguments(endpoint, mapping_of(endpoint, tasks), pipeline_class(name))
        served += 1
    assert served > 210


def test_what_describes_the_weights_of_another_endpoint_is_not_copied() -> None:
    own = {"readme": "# Another model", "examples": [{"input": {"prompt": "x"}}], "licence": "MIT"}
    flux = {"family": "flux", "schema": "flux-text-to-image", "cache": True}
    assert like("fal-ai/flux/dev", flux | own, read_call("FluxPipeline")) == flux


def dtypes_with_wans_autoencoder(name: str) -> tuple[str, Mapping[str, str]]:
    configs = {"vae": {"_class_name": "AutoencoderKLWan"}}
    options = propose(read_call(name), lambda name: configs.get(name, {}))["options"]
    return options["dtype"], options.get("dtypes", {})


@pytest.mark.long
@pytest.mark.parametrize("name", ["LucyEditPipeline", "WanPipeline", "WanModularPipeline"])
def test_the_autoencoder_of_wan_is_loaded_in_float32(name: str) -> None:
    assert dtypes_with_wans_autoencoder(name) == ("bfloat16", {"vae": "float32"})


@pytest.mark.variants(1)
@pytest.mark.parametrize("name", sorted(ONE_DTYPE))
def test_but_not_where_the_pipeline_gives_it_what_its_denoiser_computes(name: str) -> None:
    assert dtypes_with_wans_autoencoder(name) == ("bfloat16", {})


def test_audio_is_no_longer_than_its_model_makes_it() -> None:
    options = propose(read_call("LongCatAudioDiTPipeline"), unknown)["options"]
    assert options["audio_format"] == {"length": "audio_duration_s", "most_seconds": 30}
