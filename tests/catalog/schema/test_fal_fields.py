"""Each endpoint takes fal's documented body: its fields, defaults, choices and bounds."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.schema import videos, wan
from serve_app.domain.errors import InvalidInput

NEEDED = object()
OPTIONAL = object()  # left out means none

SIZES = ["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
IMAGE = "https://example.org/cat.png"

FLUX: dict[str, Any] = {
    "acceleration": "none",
    "enable_safety_checker": True,
    "guidance_scale": 3.5,
    "image_size": "landscape_4_3",
    "num_images": 1,
    "num_inference_steps": 28,
    "output_format": "jpeg",
    "prompt": NEEDED,
    "seed": OPTIONAL,
    "sync_mode": False,
}
SDXL: dict[str, Any] = {
    "embeddings": [],
    "enable_safety_checker": True,
    "expand_prompt": False,
    "format": "jpeg",
    "guidance_scale": 7.5,
    "image_size": "square_hd",
    "loras": [],
    "negative_prompt": "",
    "num_images": 1,
    "num_inference_steps": 25,
    "prompt": NEEDED,
    "request_id": "",
    "safety_checker_version": "v1",
    "seed": OPTIONAL,
    "sync_mode": False,
}
LIGHTNING: dict[str, Any] = {
    **{k: v for k, v in SDXL.items() if k not in ("loras", "negative_prompt", "guidance_scale")},
    "num_inference_steps": "4",
}
VIDEO: dict[str, Any] = {
    "prompt": NEEDED,
    "seed": OPTIONAL,
    # Darkroom's own categories, where fal has no endpoint of that name.
    "output_format": "mp4",
    "sync_mode": False,
    "video_quality": "high",
    "video_write_mode": "balanced",
}
AUDIO: dict[str, Any] = {"seed": OPTIONAL, "output_format": "wav", "sync_mode": False}
WAN21: dict[str, Any] = VIDEO | {
    "enable_prompt_expansion": False,
    "enable_safety_checker": False,
    "frames_per_second": 16,
    "negative_prompt": wan.UNWANTED,
    "num_frames": 81,
    "num_inference_steps": 30,
    "resolution": "720p",
}
WAN22: dict[str, Any] = VIDEO | {
    "adjust_fps_for_interpolation": True,
    "aspect_ratio": "16:9",
    "enable_output_safety_checker": False,
    "enable_prompt_expansion": False,
    "enable_safety_checker": False,
    "frames_per_second": 24,
    "guidance_scale": 3.5,
    "interpolator_model": "film",
    "negative_prompt": "",
    "num_frames": 81,
    "num_inference_steps": 40,
    "num_interpolated_frames": 0,
    "resolution": "720p",
    "shift": 5,
}
WAN22_LARGE: dict[str, Any] = WAN22 | {
    "acceleration": "regular",
    "frames_per_second": 16,
    "guidance_scale_2": 4,
    "num_inference_steps": 27,
    "num_interpolated_frames": 1,
}
WAN22_TURBO: dict[str, Any] = VIDEO | {
    "acceleration": "regular",
    "aspect_ratio": "16:9",
    "enable_output_safety_checker": False,
    "enable_prompt_expansion": False,
    "enable_safety_checker": False,
    "resolution": "720p",
}
LTX: dict[str, Any] = VIDEO | {
    "guidance_scale": 3,
    "negative_prompt": videos.UNWANTED,
    "num_inference_steps": 30,
}
HUNYUAN: dict[str, Any] = VIDEO | {
    "aspect_ratio": "16:9",
    "num_frames": "129",
    "resolution": "720p",
}
FROM_IMAGE: dict[str, Any] = {"aspect_ratio": "auto", "image_url": NEEDED}
FIELDS: dict[str, dict[str, Any]] = {
    "fal-ai/flux/schnell": FLUX | {"num_inference_steps": 4},
    "fal-ai/flux/dev": FLUX,
    "fal-ai/flux-lora": FLUX | {"loras": []},
    "fal-ai/flux/dev/image-to-image": {
        **{name: value for name, value in FLUX.items() if name != "image_size"},
        "image_url": NEEDED,
        "num_inference_steps": 40,
        "strength": 0.95,
    },
    "fal-ai/fast-sdxl": SDXL,
    "fal-ai/fast-sdxl/image-to-image": SDXL
    | {
        "crop_output": False,
        "image_size": "square",
        "image_url": NEEDED,
        "preserve_aspect_ratio": False,
        "strength": 0.95,
    },
    "fal-ai/fast-sdxl/inpainting": SDXL
    | {"image_url": NEEDED, "mask_url": NEEDED, "strength": 0.95},
    "fal-ai/wan-t2v": WAN21 | {"aspect_ratio": "16:9", "turbo_mode": False},
    "fal-ai/wan-i2v": WAN21
    | FROM_IMAGE
    | {"acceleration": "regular", "guide_scale": 5, "shift": 5},
    "fal-ai/wan/v2.2-5b/text-to-video": WAN22,
    "fal-ai/wan/v2.2-5b/image-to-video": WAN22 | FROM_IMAGE,
    "fal-ai/wan/v2.2-a14b/text-to-video": WAN22_LARGE,
    "fal-ai/wan/v2.2-a14b/image-to-video": WAN22_LARGE
    | FROM_IMAGE
    | {"end_image_url": OPTIONAL, "guidance_scale_2": 3.5},
    "fal-ai/wan/v2.2-a14b/text-to-video/turbo": WAN22_TURBO,
    "fal-ai/wan/v2.2-a14b/image-to-video/turbo": WAN22_TURBO
    | FROM_IMAGE
    | {"end_image_url": OPTIONAL},
    "fal-ai/ltx-video": LTX,
    "fal-ai/ltx-video/image-to-video": LTX | {"image_url": NEEDED},
    "fal-ai/ltx-2/text-to-video": VIDEO
    | {
        "duration": "6",
        "fps": "25",
        "generate_audio": True,
        "num_inference_steps": 40,
        "resolution": "1080p",
    },
    "fal-ai/hunyuan-video": HUNYUAN
    | {"enable_safety_checker": False, "num_inference_steps": 30, "pro_mode": False},
    "fal-ai/hunyuan-video-image-to-video": HUNYUAN
    | {"i2v_stability": False, "image_url": NEEDED, "num_inference_steps": 50},
    "fal-ai/stable-audio": AUDIO
    | {"prompt": NEEDED, "seconds_start": 0, "seconds_total": 30, "steps": 100},
    "fal-ai/ace-step": AUDIO
    | {
        "duration": 60,
        "granularity_scale": 10,
        "guidance_interval": 0.5,
        "guidance_interval_decay": 0,
        "guidance_scale": 15,
        "guidance_type": "apg",
        "lyric_guidance_scale": 1.5,
        "lyrics": "",
        "minimum_guidance_scale": 3,
        "number_of_steps": 27,
        "scheduler": "euler",
        "tag_guidance_scale": 5,
        "tags": NEEDED,
    },
    "fal-ai/esrgan": {
        "face": False,
        "image_url": NEEDED,
        "model": "RealESRGAN_x4plus",
        "output_format": "png",
        "scale": 2,
        "tile": 0,
    },
    "fal-ai/z-image/turbo": {
        "acceleration": "regular",
        "enable_prompt_expansion": False,
        "enable_safety_checker": True,
        "image_size": "landscape_4_3",
        "num_images": 1,
        "num_inference_steps": 8,
        "output_format": "png",
        "prompt": NEEDED,
        "seed": OPTIONAL,
        "sync_mode": False,
    },
    "fal-ai/qwen-image": FLUX
    | {
        "guidance_scale": 2.5,
        "loras": [],
        "negative_prompt": " ",
        "num_inference_steps": 30,
        "output_format": "png",
        "use_turbo": False,
    },
    "fal-ai/flux-2/klein/realtime": {
        "enable_interpolation": False,
        "image_size": "square",
        "image_url": NEEDED,
        "num_inference_steps": 3,
        "output_feedback_strength": 1,
        "prompt": 'Turn this into "Living oil painting, melting gold and sapphire"',
        "schedule_mu": 2.3,
        "seed": 35,
    },
    "fal-ai/fast-lcm-diffusion": {
        **{name: value for name, value in SDXL.items() if name not in ("loras", "embeddings")},
        "guidance_rescale": 0,
        "guidance_scale": 1.5,
        "model_name": "stabilityai/stable-diffusion-xl-base-1.0",
        "num_inference_steps": 6,
        "sync_mode": True,
    },
    "fal-ai/fast-lightning-sdxl": LIGHTNING,
    "fal-ai/fast-lightning-sdxl/image-to-image": LIGHTNING
    | {"crop_output": False, "image_url": NEEDED, "preserve_aspect_ratio": False, "strength": 0.95},
    "fal-ai/fast-lightning-sdxl/inpainting": LIGHTNING
    | {"image_url": NEEDED, "mask_url": NEEDED, "strength": 0.95},
    # Darkroom's own: the fields of fal-ai/qwen-image that a distilled model has.
    "darkroom/qwen-image-lightning": {
        **{k: v for k, v in FLUX.items() if k not in ("acceleration", "guidance_scale")},
        "loras": [],
        "num_inference_steps": 8,
        "output_format": "png",
    },
}
"""Name → default, as in fal's documentation."""

# Darkroom's own: made for one step and a square.
FIELDS["darkroom/sdxs"] = FIELDS["fal-ai/z-image/turbo"] | {
    "image_size": "square",
    "num_inference_steps": 1,
}

WITHOUT_NUMBERS = {name for name in FIELDS if name.endswith("-video/turbo")}

EACH = pytest.mark.parametrize("endpoint_id", FIELDS)


def properties(catalog: Catalog, endpoint_id: str) -> dict[str, dict[str, Any]]:
    return catalog.listed(endpoint_id).schema.json_schema()["properties"]


def least(endpoint_id: str) -> dict[str, Any]:
    """A body with only the required fields."""
    needed = [name for name, value in FIELDS[endpoint_id].items() if value is NEEDED]
    return {name: IMAGE if name.endswith("_url") else "a cat" for name in needed}


def check(catalog: Catalog, endpoint_id: str, **fields: Any) -> dict[str, Any]:
    """The validated input, also of endpoints that are not served."""
    checked, _ = catalog.listed(endpoint_id).schema.validate(least(endpoint_id) | fields)
    return checked


def test_every_endpoint_of_the_catalogue_is_looked_at(catalog: Catalog) -> None:
    assert {entry.endpoint.id for entry in catalog} == FIELDS.keys()


@EACH
def test_it_has_fals_fields_and_no_others_but_seeds_what_a_mask_keeps_and_those_of_drafts(
    catalog: Catalog, endpoint_id: str
) -> None:
    entry = catalog.listed(endpoint_id)
    schema = entry.schema.json_schema()
    own = {"seeds"} if FIELDS[endpoint_id].get("seed") is OPTIONAL else set()
    if entry.schema.makes_drafts:
        own |= {"draft", "from_draft", "new_noise", "noise_seed"}
    if "mask_url" in FIELDS[endpoint_id]:
        own.add("preserve_unmasked")
        assert schema["properties"]["preserve_unmasked"]["default"] is True
    assert schema["properties"].keys() == FIELDS[endpoint_id].keys() | own
    assert set(schema["required"]) == least(endpoint_id).keys()
    assert set(schema["x-fal-order-properties"]) == FIELDS[endpoint_id].keys() | own


@EACH
def test_its_defaults_are_fals(catalog: Catalog, endpoint_id: str) -> None:
    shown = properties(catalog, endpoint_id)
    for name, value in FIELDS[endpoint_id].items():
        if value in (NEEDED, OPTIONAL, []):
            continue
        assert shown[name]["default"] == value, name
    # A body without the fields has the same defaults.
    filled = {name: value for name, value in FIELDS[endpoint_id].items() if value is not NEEDED}
    filled = {name: None if value is OPTIONAL else value for name, value in filled.items()}
    assert check(catalog, endpoint_id) == check(catalog, endpoint_id, **filled)


@EACH
def test_every_choice_that_is_shown_is_taken(catalog: Catalog, endpoint_id: str) -> None:
    for name, shown in properties(catalog, endpoint_id).items():
        for value in shown.get("enum", ()):
            granted = (shown.get("default"), *shown.get("x-darkroom-granted", ()))
            if shown.get("x-darkroom-not-supported") and value not in granted:
                assert refusal(catalog, endpoint_id, name, value) == "feature_not_supported"
            else:
                assert check(catalog, endpoint_id, **{name: value})
        if "enum" in shown:
            assert refusal(catalog, endpoint_id, name, "none of them") == "one_of"


@EACH
def test_numbers_are_taken_up_to_their_bounds_and_not_beyond(
    catalog: Catalog, endpoint_id: str
) -> None:
    looked_at = 0
    for name, shown in properties(catalog, endpoint_id).items():
        for end, step, complaint in (
            ("minimum", -1, "greater_than_equal"),
            ("maximum", 1, "less_than_equal"),
        ):
            if end in shown:
                looked_at += 1
                assert check(catalog, endpoint_id, **{name: shown[end]})[name] == shown[end]
                assert refusal(catalog, endpoint_id, name, shown[end] + step) == complaint
    assert looked_at or endpoint_id in WITHOUT_NUMBERS


@EACH
def test_a_needed_field_that_is_left_out_is_named(catalog: Catalog, endpoint_id: str) -> None:
    for name in least(endpoint_id):
        body = {key: value for key, value in least(endpoint_id).items() if key != name}
        with pytest.raises(InvalidInput) as caught:
            catalog.listed(endpoint_id).schema.validate(body)
        assert [(each.loc, each.type) for each in caught.value.problems] == [
            (("body", name), "missing")
        ]


@EACH
def test_sizes_are_names_or_pixels(catalog: Catalog, endpoint_id: str) -> None:
    if "image_size" not in FIELDS[endpoint_id]:
        return
    realtime = endpoint_id.endswith("/realtime")  # accepts only two of the names, and no pixels
    for name in ("square", "square_hd") if realtime else SIZES:
        size = check(catalog, endpoint_id, image_size=name)["image_size"]
        assert size.keys() == {"width", "height"}
    assert refusal(catalog, endpoint_id, "image_size", "huge") == "one_of"
    if realtime:
        assert refusal(catalog, endpoint_id, "image_size", {"width": 512}) == "one_of"
    else:
        pixels = {"width": 640, "height": 320}
        assert check(catalog, endpoint_id, image_size=pixels)["image_size"] == pixels


@EACH
@pytest.mark.parametrize("url", ["cat.png", "/etc/passwd", "file:///etc/passwd", "ftp://x/y", ""])
def test_an_image_is_given_by_web_address_or_inline(
    catalog: Catalog, endpoint_id: str, url: str
) -> None:
    for name in (each for each in least(endpoint_id) if each.endswith("_url")):
        assert refusal(catalog, endpoint_id, name, url) == "url_scheme"
        for good in ("HTTP://example.org:8000/a?b=c", "data:image/png;base64,iVBORw0KGgo="):
            assert check(catalog, endpoint_id, **{name: good})[name] == good


def refusal(catalog: Catalog, endpoint_id: str, name: str, value: Any) -> str:
    """Type of the only problem, which must be about the field."""
    with pytest.raises(InvalidInput) as caught:
        check(catalog, endpoint_id, **{name: value})
    (problem,) = caught.value.problems
    assert problem.loc == ("body", name)
    return problem.type
