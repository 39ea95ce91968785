"""Inputs derived from a modular pipeline, whose blocks say what they take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

import diffusers
import pytest

from deployments.checking.modular_call import modular_call
from deployments.engine.interception.modular import blocks_of, components_needed
from serve_app.catalog.catalog import StoredEntry, build_stored
from serve_app.cli.inspection.derivation import derive_inputs
from serve_app.cli.inspection.pipeline_call import as_call, read_call
from serve_app.cli.inspection.proposal import propose
from serve_app.domain.errors import Misconfigured
from serve_app.domain.pipeline_index import ELSEWHERE
from tests.cli.inspection.test_proposal import BUILDER

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def inputs(name: str, available: Collection[str] | None = None) -> Mapping[str, Any]:
    return derive_inputs(as_call(name, modular_call(name, available))).inputs


def test_what_every_workflow_needs_is_required_and_the_rest_may_be_left_out() -> None:
    fields = inputs("Flux3ModularPipeline")
    assert [name for name, field in fields.items() if field.get("required")] == ["prompt"]
    assert fields["image_urls"] == {"type": "images", "argument": "image"}
    assert fields["image_size"]["type"] == "size"
    assert fields["num_images"]["argument"] == "num_images_per_prompt"


def test_media_of_a_call_become_files_of_a_request() -> None:
    fields = inputs("WanAnimate2ModularPipeline")
    required = {name: field["type"] for name, field in fields.items() if field.get("required")}
    assert required == {"prompt": "text", "image_url": "image", "driving_video_url": "video"}
    assert inputs("MiniMaxH3ModularPipeline").keys() >= {"image_url", "end_image_url"}
    assert inputs("MiniMaxMusic3ModularPipeline")["lyrics"]["required"] is True


def test_the_scale_of_each_guider_is_a_field() -> None:
    assert inputs("Wan22ModularPipeline")["guidance_scale_2"] == {
        "type": "number",
        "argument": "guider_2.guidance_scale",
        "default": 3.0,
    }
    own = inputs("FluxModularPipeline")["guidance_scale"]
    assert own["default"] == 3.5
    assert "argument" not in own  # of the call


def test_workflows_whose_components_are_missing_are_left_out() -> None:
    whole = {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae"}
    without = inputs("StableDiffusionXLModularPipeline", {*whole, "scheduler"})
    assert "control_image_url" not in without
    assert without["image_url"].get("required", False) is False
    assert "control_image_url" in inputs("StableDiffusionXLModularPipeline")


def components_of(name: str) -> frozenset[str]:
    return components_needed(blocks_of(getattr(diffusers, name)))


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("Flux3ModularPipeline", {"prompt_upsampler"}),
        ("Flux3ModularPipeline", {"prompt_upsampler", "prompt_upsampler_processor"}),
        ("ErnieImageModularPipeline", {"pe"}),
        ("Ideogram4ModularPipeline", {"prompt_enhancer_head"}),
        ("LTX2ModularPipeline", {"duration_head", "prompt_enhancer"}),
    ],
)
def test_a_step_that_rewrites_what_a_request_says_is_left_out_without_its_models(
    name: str, missing: Set[str]
) -> None:
    whole = components_of(name)
    assert missing < whole
    without, usual = inputs(name, whole - missing), inputs(name, whole)
    required = {field for field, facts in usual.items() if facts.get("required")}
    assert {field for field, facts in without.items() if facts.get("required")} == required
    assert without.keys() <= usual.keys()


@pytest.mark.parametrize("missing", ["vae", "transformer"])
def test_no_other_step_is(missing: str) -> None:
    name = "LTX2ModularPipeline"
    with pytest.raises(ValueError, match=f"needs {missing}, which these weights do not have"):
        modular_call(name, components_of(name) - {missing})


@pytest.mark.long
def test_the_command_line_asks_another_process_and_says_what_is_missing_and_where_it_is() -> None:
    diffusers = ["diffusers", "AutoencoderKL"]
    index = {"vae": diffusers, ELSEWHERE: {"transformer": "house/transformer"}}
    with pytest.raises(Misconfigured) as raised:
        read_call("ZImageModularPipeline", index)
    assert raised.value.message == (
        "ZImageModularPipeline cannot be served: needs scheduler, text_encoder, tokenizer, "
        "transformer, which these weights do not have. Its index has transformer in "
        "house/transformer: add --part transformer=house/transformer."
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ModularPipeline", "its blocks are of its repository, which is code"),
        ("Flux9ModularPipeline", "the diffusers on this machine does not have it"),
    ],
)
def test_other_blocks_than_those_of_diffusers_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        modular_call(name)


def test_an_entry_is_built_from_what_is_derived() -> None:
    call = as_call("Krea2ModularPipeline", modular_call("Krea2ModularPipeline"))
    entry = {**propose(call, lambda _: {}), "weights": {"directory": "/srv/x"}}
    built = build_stored(BUILDER, StoredEntry("house/krea", entry), strict=True)
    assert built.endpoint.family == "generic"
    checked, _ = built.schema.validate({"prompt": "a dog", "guidance_scale": 2.5})
    assert checked["guidance_scale"] == 2.5


def test_the_frame_rate_is_that_of_the_model() -> None:
    assert inputs("MiniMaxH3ModularPipeline")["frames_per_second"]["default"] == 24
    assert inputs("Cosmos3OmniModularPipeline")["frames_per_second"]["default"] == 24
    assert inputs("EchoModularPipeline")["frames_per_second"]["default"] == 25


def test_a_list_of_objects_has_the_fields_of_the_class_that_a_block_names() -> None:
    declared = inputs("LTX25ModularPipeline")
    assert [*declared["conditions"]["fields"]] == [
        "image_url",
        "video_url",
        "index",
        "strength",
        "crf",
    ]
    assert declared["conditions"]["fields"]["index"]["about"].startswith("The index at which")
    assert declared["reference_conditions"]["one_of"] == ["image_url", "video_url"]


def test_a_list_of_several_classes_has_the_files_of_all() -> None:
    references = inputs("MiniMaxH3ModularPipeline")["references"]
    assert {name: field["argument"] for name, field in references["fields"].items()} == {
        "image_url": "image",
        "video_url": "frames",
        "audio_url": "audio",
    }
    assert references["one_of"] == [*references["fields"]]
    assert all(references["fields"][name]["as_is"] for name in ("image_url", "video_url"))


def test_boxes_have_the_keys_that_the_blocks_read() -> None:
    assert inputs("Flux3ModularPipeline")["boxes"]["one_of"] == ["bbox", "tgt_bbox"]
