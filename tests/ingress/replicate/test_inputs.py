"""Inputs by Replicate's names."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.executors.cog.schema import CONTEXT_FIELD
from serve_app.catalog.catalog import CatalogEntry, load
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import MODEL_ALIASES, Endpoint, Weights
from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.ingress.replicate.inputs import MAX_RATIO, RENAMED, cog_context, translate
from tests.ingress.house import DEMO, OTHERS

FLUX, SDXL = OTHERS.get_listed("fal-ai/flux/schnell"), OTHERS.get_listed("fal-ai/fast-sdxl")
OPEN = OTHERS.get_listed("test/images")
BUILT_IN = load(None, demo=False, demo_dir=DEMO)


def flux(**fields: Any) -> dict[str, Any]:
    return translate(OTHERS, FLUX, fields)[1]


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from(["1", "0.25", None]))
def test_an_aspect_ratio_is_a_size_of_that_shape_and_area(
    across: int, down: int, megapixels: str | None
) -> None:
    if not 1 / MAX_RATIO <= across / down <= MAX_RATIO:
        with pytest.raises(InvalidInput, match="aspect_ratio"):
            flux(aspect_ratio=f"{across}:{down}")
        return
    size = flux(aspect_ratio=f"{across}:{down}", megapixels=megapixels)["image_size"]
    area = 2**20 * float(megapixels or 1)
    assert size["width"] % 16 == size["height"] % 16 == 0
    assert size["width"] / size["height"] == pytest.approx(across / down, rel=0.12)
    assert size["width"] * size["height"] == pytest.approx(area, rel=0.12)


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({}, "auto"),
        ({"megapixels": "1"}, "auto"),
        ({"mask": "https://example.org/mask.png"}, "auto"),
        ({"width": 640, "height": 512}, {"width": 640, "height": 512}),
        ({"image_size": "square"}, "square"),
        ({"from_draft": "a draft"}, None),
    ],
)
def test_an_input_with_an_image_and_no_size_keeps_the_shape_of_the_image(
    more: dict[str, Any], size: object
) -> None:
    model_input = {"prompt": "x", "image": "https://example.org/cat.png", **more}
    assert translate(OTHERS, SDXL, model_input)[1].get("image_size") == size


@pytest.mark.parametrize(("megapixels", "side"), [("0.25", 512), ("1", 1024)])
def test_megapixels_alone_are_a_square_as_at_replicate(megapixels: str, side: int) -> None:
    assert flux(megapixels=megapixels) == {"image_size": {"width": side, "height": side}}
    own = {"image_size": "portrait_4_3"}
    assert flux(megapixels=megapixels, **own) == own
    assert flux(megapixels=megapixels, width=64, height=96)["image_size"]["height"] == 96


@pytest.mark.parametrize(("name", "other"), [("width", "height"), ("height", "width")])
def test_one_side_alone_is_refused_and_not_ignored(name: str, other: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name}: .*{other}"):
        flux(**{name: 512})
    assert translate(OTHERS, OPEN, {name: 512}) == (OPEN, {name: 512})


@pytest.mark.parametrize(
    "ratio", ["", "1", "1:", ":1", "0:1", "1:0", "-1:1", "a:b", "1:1:1", "²:1", "9" * 5000 + ":1"]
)
def test_what_is_no_ratio_is_refused_with_its_field(ratio: str) -> None:
    with pytest.raises(InvalidInput, match="aspect_ratio"):
        flux(aspect_ratio=ratio)


@given(st.dictionaries(st.sampled_from([*RENAMED, "seed", "num_images", "x"]), st.integers()))
def test_an_endpoint_that_takes_every_field_gets_them_unchanged(fields: dict[str, Any]) -> None:
    assert translate(OTHERS, OPEN, fields) == (OPEN, fields)


def test_fields_of_the_endpoint_itself_are_not_changed() -> None:
    own = {"prompt": "x", "image_size": "square", "num_images": 2, "output_format": "png"}
    assert flux(**own) == own
    assert flux(**own, aspect_ratio="1:1")["image_size"] == "square"


def test_the_format_has_the_name_and_the_values_of_the_endpoint() -> None:
    assert translate(OTHERS, SDXL, {"output_format": "jpg"})[1] == {"format": "jpeg"}
    assert flux(output_format="jpg") == {"output_format": "jpeg"}


CAT = "https://example.org/cat.png"
EXAMPLES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "bytedance/sdxl-lightning-4step",
        {
            "prompt": "x",
            "width": 1024,
            "height": 1024,
            "scheduler": "K_EULER",
            "num_outputs": 1,
            "guidance_scale": 0,
            "negative_prompt": "",
            "num_inference_steps": 4,
        },
        {"image_size": {"width": 1024, "height": 1024}, "num_images": 1},
    ),
    (
        "wan-video/wan-2.2-t2v-fast",
        {
            "prompt": "x",
            "go_fast": True,
            "num_frames": 81,
            "resolution": "480p",
            "aspect_ratio": "16:9",
            "sample_shift": 12,
            "frames_per_second": 16,
        },
        {"resolution": "480p", "aspect_ratio": "16:9"},
    ),
    (
        "wan-video/wan-2.2-i2v-fast",
        {"prompt": "x", "image": CAT, "last_image": CAT, "resolution": "480p"},
        {"image_url": CAT, "end_image_url": CAT},
    ),
    (
        "wan-video/wan-2.2-i2v-a14b",
        {"prompt": "x", "image": CAT, "sample_steps": 30, "sample_shift": 5, "num_frames": 81},
        {"image_url": CAT, "num_inference_steps": 30, "shift": 5},
    ),
    (
        "wan-video/wan-2.2-5b-fast",
        {"prompt": "x", "image": CAT, "aspect_ratio": "16:9", "go_fast": True},
        {"image_url": CAT, "aspect_ratio": "16:9"},
    ),
    (
        "wavespeedai/wan-2.1-i2v-720p",
        {
            "prompt": "x",
            "image": CAT,
            "max_area": "1280x720",
            "fast_mode": "Balanced",
            "sample_steps": 30,
            "sample_guide_scale": 5,
            "sample_shift": 5,
        },
        {"image_url": CAT, "num_inference_steps": 30, "guide_scale": 5, "shift": 5},
    ),
    (
        "tencent/hunyuan-video",
        {"prompt": "x", "video_length": 129, "infer_steps": 30, "embedded_guidance_scale": 6},
        {"num_frames": 129, "num_inference_steps": 30},
    ),
    ("lightricks/ltx-video", {"prompt": "x", "steps": 30, "cfg": 3}, {}),
    (
        "stackadoc/stable-audio-open-1.0",
        {"prompt": "x", "seconds_total": 8, "steps": 100, "cfg_scale": 6},
        {"seconds_total": 8, "steps": 100},
    ),
    (
        "nightmareai/real-esrgan",
        {"image": CAT, "scale": 2, "face_enhance": False},
        {"image_url": CAT, "scale": 2, "face": False},
    ),
]
"""Names of Replicate's models with inputs as their pages show them, and a part of what becomes of
each."""


@pytest.mark.parametrize(("name", "given", "part"), EXAMPLES)
def test_the_usual_input_of_a_model_is_taken_by_its_endpoint(
    name: str, given: dict[str, Any], part: dict[str, Any]
) -> None:
    entry, fields = translate(BUILT_IN, BUILT_IN.get_listed(MODEL_ALIASES[name]), given)
    checked, _ = entry.schema.validate(fields)
    assert {field: fields[field] for field in part} == part
    assert part.keys() <= checked.keys()


@pytest.mark.parametrize("image", [{}, {"image": None}])
def test_a_field_that_is_about_an_image_is_ignored_without_one(image: dict[str, Any]) -> None:
    model_input = {"prompt": "x", "prompt_strength": 0.8, **image}
    entry, fields = translate(OTHERS, SDXL, model_input)
    assert (entry, fields["prompt_strength"], "strength" in fields) == (SDXL, 0.8, False)
    checked, warnings = SDXL.schema.validate({"prompt": "x", "prompt_strength": 0.8})
    assert "strength" not in checked
    assert any("prompt_strength" in line for line in warnings)
    own = OTHERS.get_listed("fal-ai/fast-sdxl/image-to-image")
    assert translate(OTHERS, own, model_input)[1]["strength"] == 0.8
    with pytest.raises(InvalidInput, match="mask: needs `image`"):
        translate(OTHERS, SDXL, {"prompt": "x", "mask": "https://example.org/mask.png", **image})


@pytest.mark.parametrize("name", ["output_format", "megapixels", "aspect_ratio", "width", "image"])
@pytest.mark.parametrize("value", [[], {"a": 1}, 5, True, ""])
def test_a_value_of_any_type_is_passed_on_or_refused(name: str, value: Any) -> None:
    with contextlib.suppress(InvalidInput, Unsupported):
        flux(**{name: value})


def cog_model(field: dict[str, Any]) -> CatalogEntry:
    schema = {"type": "object", "properties": {"context": field}, "additionalProperties": False}
    options = {"input_schema": schema, "output_schema": {"type": "object"}}
    endpoint = Endpoint("team/model", "cog", Weights(""), "json", options=options)
    return CatalogEntry(endpoint, JsonSchema(endpoint), FLUX.source)


def test_the_context_of_a_prediction_is_for_models_that_read_it() -> None:
    body = {"input": {}, "context": {"region": "eu"}}
    assert cog_context(cog_model(dict(CONTEXT_FIELD)), body) == {"context": {"region": "eu"}}
    # An input of this name is another thing, and other endpoints would ignore it.
    for entry in (cog_model({"type": "object"}), FLUX, OPEN):
        with pytest.raises(InvalidInput, match="read by no model of") as refused:
            cog_context(entry, body)
        assert refused.value.problems[0].loc == ("body", "context")
        nothing: dict[str, Any]
        for nothing in ({}, {"context": {}}, {"context": None}):
            assert cog_context(entry, nothing) == {}


def test_an_image_that_no_sibling_takes_is_refused() -> None:
    with pytest.raises(Unsupported, match="cannot change an image"):
        flux(prompt="x", image="https://example.com/a.png")
