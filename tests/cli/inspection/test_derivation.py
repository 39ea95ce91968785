"""Fields that follow from the arguments of a pipeline's call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from serve_app.cli.inspection.derivation import derive_inputs
from serve_app.cli.inspection.pipeline_call import REQUIRED, Argument, PipelineCall, read_call
from serve_app.domain.errors import Misconfigured


def fields(name: str) -> Mapping[str, Mapping[str, Any]]:
    return derive_inputs(read_call(name)).inputs


def declare_argument(type_: str, default: Any = None, name: str = "x") -> Mapping[str, Any] | None:
    """Declaration of an argument of a made-up call."""
    call = PipelineCall("Made", {name: Argument(name, default, type_)}, "image")
    inputs = derive_inputs(call).inputs
    return next(iter(inputs.values()), None)


def test_files_have_the_names_that_fals_clients_send() -> None:
    assert fields("WanImageToVideoPipeline").keys() >= {"image_url", "end_image_url"}
    assert fields("StableDiffusionInpaintPipeline").keys() >= {"image_url", "mask_url"}
    assert "control_image_url" in fields("FluxControlNetPipeline")
    animate = fields("WanAnimatePipeline")
    assert {n: animate[n]["argument"] for n in animate if n.endswith("_url")} == {
        "image_url": "image",
        "pose_video_url": "pose_video",
        "face_video_url": "face_video",
        "background_video_url": "background_video",
        "mask_video_url": "mask_video",
    }
    vace = fields("WanVACEPipeline")
    assert vace["reference_image_urls"]["type"] == "images"
    assert (vace["mask_video_url"]["type"], vace["mask_video_url"]["argument"]) == ("video", "mask")
    assert animate["pose_video_url"]["about"].startswith("The input pose video")
    assert animate["mode"]["choices"] == ["animate", "replace"]


@pytest.mark.parametrize("name", ["QwenImageEditPlusPipeline", "Flux2Pipeline"])
def test_a_model_that_edits_several_images_takes_a_list(name: str) -> None:
    assert fields(name)["image_urls"] | {"required": True} == {
        "type": "images",
        "argument": "image",
        "required": True,
    }


def test_what_is_redrawn_must_be_given_even_if_the_argument_has_a_default() -> None:
    inpainting = fields("StableDiffusionInpaintPipeline")
    assert inpainting["image_url"]["required"]
    assert inpainting["mask_url"]["required"]
    assert "required" not in fields("Flux2Pipeline")["image_urls"]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("StableDiffusionControlNetPipeline", "control_image_url"),
        ("StableDiffusionXLControlNetUnionPipeline", "control_image_url"),
        ("StableDiffusionXLControlNetUnionPipeline", "control_mode"),
        ("StableDiffusionXLControlNetInpaintPipeline", "image_url"),
        ("StableDiffusionXLControlNetInpaintPipeline", "control_image_url"),
        ("StableDiffusionXLAdapterPipeline", "control_image_url"),
        ("FluxControlPipeline", "control_image_url"),
        ("QwenImageControlNetInpaintPipeline", "control_mask_url"),
        ("AnimateDiffVideoToVideoPipeline", "video_url"),
        ("VideoToVideoSDPipeline", "video_url"),  # its annotation names arrays
        ("StableDiffusionGLIGENPipeline", "gligen_boxes"),
        ("StableDiffusionGLIGENPipeline", "gligen_phrases"),
        ("AnimateDiffControlNetPipeline", "conditioning_frames_video_url"),
    ],
)
def test_what_a_pipeline_fails_without_is_required(name: str, field: str) -> None:
    assert fields(name)[field]["required"]


def test_a_list_of_boxes_has_rows_of_four_shares() -> None:
    boxes = fields("StableDiffusionGLIGENPipeline")["gligen_boxes"]
    assert (boxes["type"], boxes["columns"]) == ("rows", 4)
    assert (boxes["item_least"], boxes["item_most"]) == (0, 1)


def test_an_enumeration_of_texts_has_its_values_as_choices() -> None:
    declared = fields("HunyuanVideoFramepackPipeline")["sampling_type"]
    assert declared["type"] == "text"
    assert declared["choices"] == ["vanilla", "inverted_anti_drifting"]


def test_a_video_has_the_frame_rate_that_its_model_is_asked_for() -> None:
    assert fields("StableVideoDiffusionPipeline")["frames_per_second"]["default"] == 7
    assert fields("LTXPipeline")["frames_per_second"]["default"] == 25


@pytest.mark.long
@pytest.mark.parametrize("name", ["QwenImageLayeredPipeline", "QwenImageLayeredModularPipeline"])
def test_layers_are_made_of_an_image_whose_prompt_may_be_left_out(name: str) -> None:
    inputs = fields(name)
    assert inputs["image_url"]["required"]
    assert "required" not in inputs["prompt"]
    assert (inputs["layers"]["type"], inputs["layers"]["default"]) == ("layers", 4)
    assert inputs["resolution"]["choices"] == [640, 1024]
    assert "num_images" not in inputs


def test_numbers_of_layers_tokens_and_frames_have_bounds() -> None:
    assert fields("WanAnimatePipeline")["segment_frame_length"]["least"] == 1
    assert fields("StableVideoDiffusionPipeline")["decode_chunk_size"]["least"] == 1
    assert fields("FluxPipeline")["max_sequence_length"]["least"] == 1
    skipped = fields("StableDiffusionXLImg2ImgPipeline")["clip_skip"]
    assert (skipped["least"], skipped["most"]) == (0, 11)
    eta = fields("StableDiffusionPipeline")["eta"]  # above it, DDIM has no numbers
    assert (eta["least"], eta["most"]) == (0, 1)


def test_a_map_is_made_of_an_image_alone() -> None:
    inputs = fields("MarigoldDepthPipeline")
    assert [name for name, field in inputs.items() if field.get("required")] == ["image_url"]
    assert (inputs["ensemble_size"]["least"], inputs["ensemble_size"]["most"]) == (1, 50)
    assert "bicubic" in inputs["resample_method_output"]["choices"]
    assert not inputs.keys() & {"output_uncertainty", "output_latent", "batch_size"}


def test_the_guidance_of_a_distilled_model_is_the_one_that_works_at_fal() -> None:
    qwen = fields("QwenImagePipeline")
    assert qwen["guidance_scale"] == {
        "type": "number",
        "default": 4.0,
        "argument": "true_cfg_scale",
    }
    assert qwen["embedded_guidance_scale"]["argument"] == "guidance_scale"


@pytest.mark.parametrize(
    ("type_", "default", "declared"),
    [
        ("int", 3, {"type": "integer", "default": 3}),
        ("int | None", None, {"type": "integer"}),
        ("Optional[float]", 0.5, {"type": "number", "default": 0.5}),
        ("float | list[float]", 1.0, {"type": "number", "default": 1.0}),
        ("Union[str, List[str], None]", None, {"type": "text"}),
        ("bool | None", False, {"type": "boolean", "default": False}),
        ("tuple[int, int]", (0, 0), {"type": "integers", "least": 2, "most": 2}),
        ("tuple[int, ...]", (9, 18), {"type": "integers"}),
        ("List[float]", None, {"type": "numbers"}),
        ("list[str] | None", None, {"type": "texts"}),
        ("", 5, {"type": "integer", "default": 5}),
        ("str", REQUIRED, {"type": "text", "required": True}),
        ("torch.Tensor | None", None, None),
        ("dict[str, Any]", {"a": 1}, None),
        ("Callable[[int], None] | None", None, None),
        ("list[list[int]]", None, None),
    ],
)
def test_a_value_has_the_type_of_its_annotation_as_far_as_json_has_it(
    type_: str, default: Any, declared: Mapping[str, Any] | None
) -> None:
    assert declare_argument(type_, default) == declared


def test_shares_have_their_bounds() -> None:
    assert declare_argument("float", 0.8, "strength") == {
        "type": "number",
        "default": 0.8,
        "least": 0.01,
        "most": 1,
    }
    assert declare_argument("float", 0.0, "control_guidance_start")["most"] == 1  # type: ignore[index]


def test_an_argument_that_must_be_given_and_cannot_names_the_line_to_write() -> None:
    with pytest.raises(Misconfigured, match=r"needs x, which.*torch.Tensor.*fixed: \{x: …\}"):
        declare_argument("torch.Tensor", REQUIRED)


def test_what_cannot_be_given_is_named_with_the_reason() -> None:
    left_out = derive_inputs(read_call("FluxKontextPipeline")).left_out
    assert "--part ip_adapter=owner/name/file.safetensors" in left_out["ip_adapter_image"]
    assert "--part image_encoder=" in left_out["negative_ip_adapter_image"]
    assert "tensor" in left_out["prompt_embeds"]
    assert "_auto_resize" not in left_out
    template = derive_inputs(read_call("HunyuanVideoPipeline")).notable_omissions["prompt_template"]
    assert "fixed: {prompt_template:" in template


def test_a_crop_that_pipelines_make_of_finished_files_alone_is_left_out() -> None:
    derivation = derive_inputs(read_call("StableDiffusionXLInpaintPipeline"))
    assert "crop the image" in derivation.notable_omissions["padding_mask_crop"]
    assert "padding_mask_crop" not in derivation.inputs


def test_with_an_ip_adapter_a_request_gives_its_image_and_scale() -> None:
    derivation = derive_inputs(read_call("FluxPipeline"), native=1024, adapters=1)
    assert not [name for name in derivation.notable_omissions if "ip_adapter" in name]
    inputs = derivation.inputs
    for name in ("ip_adapter_image", "negative_ip_adapter_image"):
        declared = {"type": "image", "argument": name, "as_is": True}
        assert inputs[f"{name}_url"] == declared
    scale = inputs["ip_adapter_scale"]
    assert (scale["argument"], scale["default"]) == ("ip_adapter.scale", 1.0)
    assert (scale["least"], scale["most"]) == (0, 1)
    assert "default" in inputs["image_size"], "the size is not that of the adapter's image"


def test_of_several_ip_adapters_each_has_an_image_and_a_scale() -> None:
    inputs = derive_inputs(read_call("FluxPipeline"), native=1024, adapters=2).inputs
    for name in ("ip_adapter_image", "negative_ip_adapter_image"):
        assert inputs[f"{name}_urls"] == {"type": "images", "argument": name, "least": 2, "most": 2}
        assert f"{name}_url" not in inputs
    scale = inputs["ip_adapter_scale"]
    assert (scale["type"], scale["default"]) == ("numbers", [1.0, 1.0])
    assert (scale["least"], scale["most"]) == (2, 2)
    assert (scale["item_least"], scale["item_most"]) == (0, 1)


def test_stable_diffusion_3_has_one_ip_adapter_with_one_image() -> None:
    call = read_call("StableDiffusion3Pipeline")
    assert "ip_adapter_image_urls" not in derive_inputs(call, adapters=1).inputs
    with pytest.raises(Misconfigured, match="loads one IP-Adapter into StableDiffusion3Pipeline"):
        derive_inputs(call, adapters=2)


def test_every_pipeline_that_takes_an_adapter_has_its_fields() -> None:
    for name in ("StableDiffusionPipeline", "StableDiffusion3Pipeline", "AnimateDiffPipeline"):
        inputs = derive_inputs(read_call(name), adapters=1).inputs
        assert {"ip_adapter_image_url", "ip_adapter_scale"} <= inputs.keys(), name


def test_an_adapter_for_a_pipeline_that_takes_none_is_refused() -> None:
    with pytest.raises(Misconfigured, match="WanPipeline takes no image for an IP-Adapter: leave"):
        derive_inputs(read_call("WanPipeline"), adapters=1)


def test_what_a_request_is_about_comes_first() -> None:
    assert [*fields("FluxControlNetPipeline")][:5] == [
        "prompt",
        "control_image_url",
        "negative_prompt",
        "image_size",
        "num_inference_steps",
    ]


def test_a_field_says_what_the_docstring_says_of_its_argument() -> None:
    about = fields("WanImageToVideoPipeline")["guidance_scale_2"]["about"]
    assert about == "Guidance scale for the low-noise stage transformer (`transformer_2`)."
    cfg = fields("FluxKontextPipeline")["true_cfg_scale"]["about"]
    assert cfg.startswith("When > 1.0")


def test_a_list_of_objects_has_the_fields_of_its_class() -> None:
    conditions = fields("LTXConditionPipeline")["conditions"]
    assert (conditions["type"], conditions["one_of"]) == ("objects", ["image_url", "video_url"])
    inner = {name: {**field, "about": ""} for name, field in conditions["fields"].items()}
    assert inner == {
        "image_url": {"type": "image", "argument": "image", "about": ""},
        "video_url": {"type": "video", "argument": "video", "about": ""},
        "frame_index": {"type": "integer", "default": 0, "about": ""},
        "strength": {"type": "number", "least": 0, "most": 1, "default": 1.0, "about": ""},
    }
    assert conditions["fields"]["frame_index"]["about"].startswith("The frame index")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("LTX2ConditionPipeline", "conditions"),
        ("LTX2DFRPipeline", "conditions"),
        ("LTX2InContextPipeline", "conditions"),
        ("LTX2InContextPipeline", "reference_conditions"),
        ("LTX2HDRPipeline", "reference_conditions"),
    ],
)
def test_frames_of_an_object_are_an_image_or_a_video(name: str, field: str) -> None:
    declared = fields(name)[field]
    assert declared["one_of"] == ["image_url", "video_url"]
    arguments = {choice: declared["fields"][choice]["argument"] for choice in declared["one_of"]}
    assert arguments == dict.fromkeys(declared["one_of"], "frames")


def test_an_image_that_objects_may_have_is_not_required_beside_them() -> None:
    inputs = fields("LTXConditionPipeline")
    assert "required" not in inputs["image_url"]
    assert [*inputs].index("conditions") < [*inputs].index("negative_prompt")


def test_keys_of_mappings_that_no_type_states_are_those_that_the_pipeline_reads() -> None:
    segments = fields("LTXI2VLongMultiPromptPipeline")["prompt_segments"]
    assert {n for n, field in segments["fields"].items() if field.get("required")} == {
        "end_window",
        "text",
    }


def test_a_list_without_a_type_has_that_of_its_default() -> None:
    inputs = fields("HeliosPyramidPipeline")
    assert (inputs["history_sizes"]["type"], inputs["history_sizes"]["default"]) == (
        "integers",
        [16, 2, 1],
    )
    assert inputs["pyramid_num_inference_steps_list"]["type"] == "integers"


def test_a_mode_of_a_union_is_no_negative_index() -> None:
    assert fields("StableDiffusionXLControlNetUnionPipeline")["control_mode"]["least"] == 0
