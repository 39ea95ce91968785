"""fal's fields over the inputs that a pipeline's call derives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import CatalogEntry, StoredEntry, build_stored
from serve_app.catalog.entries import EntryBuilder
from serve_app.catalog.fal_types import fal_input
from serve_app.cli.inspection.pipeline_call import read_call
from serve_app.cli.inspection.proposal import propose
from serve_app.domain.errors import InvalidInput, Misconfigured
from tests.cli.inspection.open_endpoints import OPEN_ENDPOINTS

BUILDER = EntryBuilder(demo=False, demo_dir=Path("/"))
URL = "https://example.org/a.png"


def entry(endpoint_id: str, name: str) -> CatalogEntry:
    written = propose(read_call(name), lambda _: {}, endpoint_id)
    stored = StoredEntry(endpoint_id, {**written, "weights": {"directory": "/srv/x"}})
    return build_stored(BUILDER, stored, strict=True)


def inputs(endpoint_id: str, name: str) -> Mapping[str, Mapping[str, Any]]:
    return entry(endpoint_id, name).endpoint.options["inputs"]


def test_more_than_a_hundred_endpoints_of_fals_are_served_by_one_command() -> None:
    assert len(OPEN_ENDPOINTS) > 120


@pytest.mark.variants(13)
@pytest.mark.parametrize(("endpoint_id", "name"), OPEN_ENDPOINTS.items())
def test_no_field_of_fals_is_missing_and_what_is_required_suffices(
    endpoint_id: str, name: str
) -> None:
    fals = fal_input(endpoint_id)
    assert fals is not None
    schema = entry(endpoint_id, name).schema
    assert fals.keys() <= schema.fields
    required = schema.json_schema().get("required", [])
    assert set(required) <= {field for field, fal_field in fals.items() if fal_field.required}


def test_defaults_and_choices_are_fals() -> None:
    edit = entry("fal-ai/qwen-image-edit-2511", "QwenImageEditPlusPipeline")
    checked, warnings = edit.schema.validate({"prompt": "x", "image_urls": [URL]})
    assert (checked["num_inference_steps"], checked["guidance_scale"]) == (28, 4.5)
    assert (checked["output_format"], warnings) == ("png", ())
    with pytest.raises(InvalidInput, match="acceleration"):
        edit.schema.validate({"prompt": "x", "image_urls": [URL], "acceleration": "warp"})


def test_fals_names_reach_the_arguments_that_hold_the_same() -> None:
    control = inputs("fal-ai/z-image/turbo/controlnet", "ZImageControlNetPipeline")
    assert control["image_url"]["argument"] == "control_image"
    assert control["control_scale"]["argument"] == "controlnet_conditioning_scale"
    flf = inputs("fal-ai/wan-flf2v", "WanImageToVideoPipeline")
    assert {n: flf[n]["argument"] for n in ("start_image_url", "end_image_url")} == {
        "start_image_url": "image",
        "end_image_url": "last_image",
    }
    sizes = inputs("fal-ai/cogvideox-5b", "CogVideoXPipeline")
    assert (sizes["video_size"]["type"], sizes["export_fps"]["type"]) == ("size", "rate")
    animated = inputs("fal-ai/wan/v2.2-14b/animate/move", "WanAnimate2ModularPipeline")
    assert animated["video_url"]["argument"] == "driving_video"


def test_what_the_pipeline_takes_beyond_stays_reachable() -> None:
    kontext = inputs("fal-ai/flux-kontext/dev", "FluxKontextPipeline")
    assert {"true_cfg_scale", "max_sequence_length", "loras"} <= kontext.keys()


def test_a_field_without_a_place_is_refused_unless_it_is_at_its_default() -> None:
    kontext = entry("fal-ai/flux-kontext/dev", "FluxKontextPipeline").schema
    body = {"prompt": "x", "image_url": URL}
    assert kontext.validate({**body, "resolution_mode": "match_input"})[1] == ()
    with pytest.raises(InvalidInput) as error:
        kontext.validate({**body, "resolution_mode": "16:9"})
    (problem,) = error.value.problems
    assert problem.type == "feature_not_supported"
    assert "FluxKontextPipeline has no argument for it" in problem.message


def test_a_switch_without_a_place_may_be_off() -> None:
    animate = entry("fal-ai/wan/v2.2-14b/animate/move", "WanAnimate2ModularPipeline").schema
    body = {"image_url": URL, "video_url": "https://example.org/a.mp4"}
    assert animate.validate({**body, "use_turbo": False})[1] == ()
    with pytest.raises(InvalidInput, match="use_turbo"):
        animate.validate({**body, "use_turbo": True})


def test_what_changes_no_result_has_no_effect_and_the_log_says_so() -> None:
    kontext = entry("fal-ai/flux-kontext/dev", "FluxKontextPipeline").schema
    body = {"prompt": "x", "image_url": URL, "acceleration": "high", "enhance_prompt": True}
    assert kontext.validate(body)[1] == (
        "acceleration has no effect: this endpoint has no step cache.",
        "enhance_prompt has no effect: prompts are used as they are sent.",
    )


def test_a_length_in_seconds_is_not_overruled_by_a_number_of_frames() -> None:
    assert "num_frames" not in inputs("fal-ai/ltx-2/image-to-video", "LTX2ImageToVideoPipeline")


def test_a_resolution_that_no_video_has_is_refused() -> None:
    vace = entry("fal-ai/wan-vace-14b", "WanVACEPipeline").schema
    assert vace.validate({"prompt": "x", "resolution": "480p"})[0]["resolution"] == "480p"
    with pytest.raises(InvalidInput, match="resolution"):
        vace.validate({"prompt": "x", "resolution": "240p"})


@pytest.mark.parametrize(
    ("endpoint_id", "name", "words"),
    [
        (
            "fal-ai/wan/v2.2-14b/animate/move",
            "WanAnimatePipeline",
            "needs pose_video_url, face_video_url, .* has no place for its video_url",
        ),
        ("fal-ai/sana", "FluxKontextPipeline", "needs image_url, which fal-ai/sana does not have"),
    ],
)
def test_an_id_whose_clients_do_not_send_what_the_pipeline_needs_is_refused(
    endpoint_id: str, name: str, words: str
) -> None:
    with pytest.raises(Misconfigured, match=words):
        entry(endpoint_id, name)


def test_fals_lists_of_images_and_of_videos_are_one_list_of_the_pipeline() -> None:
    merged = entry("fal-ai/ltx-video-v095/multiconditioning", "LTXConditionPipeline")
    declared = merged.endpoint.options["inputs"]
    assert {declared[name]["argument"] for name in ("images", "videos")} == {"conditions"}
    assert declared["images"]["fields"]["start_frame_num"]["argument"] == "frame_index"
    body = {"prompt": "x", "videos": [{"video_url": URL}]}
    assert merged.schema.validate(body)[0]["videos"][0]["start_frame_num"] == 0
    with pytest.raises(InvalidInput, match=r"videos\.0\.conditioning_type: Not supported here"):
        merged.schema.validate(
            {**body, "videos": [{"video_url": URL, "conditioning_type": "pose"}]}
        )
