"""Each endpoint takes the body that fal's client declares: its fields, defaults and choices; and
its bounds hold."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.fal_types import Choice, FalField, OneOf, fal_ids, fal_input
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput
from tests.catalog.conftest import DEMO

NEEDED = object()
OPTIONAL = object()
"""Left out means none, or a default that fal's client does not state: false, 0 or an empty list."""

SIZES = ["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]
IMAGE = "https://example.org/cat.png"


def fals_fields(endpoint_id: str) -> dict[str, Any]:
    """Name → default of the fields that fal's client declares."""

    def default(field: FalField) -> Any:
        return NEEDED if field.required else OPTIONAL if field.default is None else field.default

    declared = fal_input(endpoint_id)
    assert declared is not None, endpoint_id
    return {name: default(field) for name, field in declared.items()}


# Darkroom's own categories, where fal has no endpoint of that name, or none with these fields.
AUDIO: dict[str, Any] = {"seed": OPTIONAL, "output_format": "wav", "sync_mode": False}
VIDEO: dict[str, Any] = {
    "seed": OPTIONAL,
    "output_format": "mp4",
    "sync_mode": False,
    "video_quality": "high",
    "video_write_mode": "balanced",
}
UNDECLARED: dict[str, dict[str, Any]] = {
    "fal-ai/hunyuan-video": VIDEO
    | {
        "aspect_ratio": "16:9",
        "enable_safety_checker": False,
        "num_frames": "129",
        "num_inference_steps": 30,
        "pro_mode": False,
        "prompt": NEEDED,
        "resolution": "720p",
    },
    "fal-ai/wan/v2.2-a14b/image-to-video": VIDEO
    | fals_fields("fal-ai/wan/v2.2-a14b/text-to-video")
    | {
        "aspect_ratio": "auto",
        "end_image_url": OPTIONAL,
        "guidance_scale_2": 3.5,
        "image_url": NEEDED,
    },
    # The fields of fal-ai/qwen-image that a distilled model has.
    "darkroom/qwen-image-lightning": {
        **{
            name: value
            for name, value in fals_fields("fal-ai/qwen-image").items()
            if name not in ("acceleration", "guidance_scale", "negative_prompt", "use_turbo")
        },
        "num_inference_steps": 8,
    },
    # Made for one step and a square.
    "darkroom/sdxs": fals_fields("fal-ai/z-image/turbo")
    | {"image_size": "square", "num_inference_steps": 1},
}
"""Endpoints that fal's client does not declare."""

OTHERWISE: dict[str, dict[str, Any]] = {
    # fal's client declares one type for both of FLUX.1; fal's page of the endpoint has 4.
    "fal-ai/flux/schnell": {"num_inference_steps": 4},
    "fal-ai/hunyuan-video-image-to-video": {"num_inference_steps": 50},
    "fal-ai/ltx-2/text-to-video": {"num_inference_steps": 40},
}
"""Defaults that are not those of fal's client, and fields that it does not have."""


def documented_fields(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.id in UNDECLARED:
        return UNDECLARED[endpoint.id]
    own = {"video": VIDEO, "audio": AUDIO}.get(endpoint.kind, {})
    return own | fals_fields(endpoint.id) | OTHERWISE.get(endpoint.id, {})


FIELDS = {
    entry.endpoint.id: documented_fields(entry.endpoint)
    for entry in load(None, demo=False, demo_dir=DEMO)
}
"""Name → default of the fields of each endpoint."""

WITHOUT_NUMBERS = {name for name in FIELDS if name.endswith("-video/turbo")}

EACH = pytest.mark.parametrize("endpoint_id", FIELDS)


def properties(catalog: Catalog, endpoint_id: str) -> dict[str, dict[str, Any]]:
    return catalog.get_listed(endpoint_id).schema.json_schema()["properties"]


def least(endpoint_id: str) -> dict[str, Any]:
    """A body with only the required fields."""
    needed = [name for name, value in FIELDS[endpoint_id].items() if value is NEEDED]
    return {name: IMAGE if name.endswith("_url") else "a cat" for name in needed}


def check(catalog: Catalog, endpoint_id: str, **fields: Any) -> dict[str, Any]:
    """The validated input, also of endpoints that are not served."""
    checked, _ = catalog.get_listed(endpoint_id).schema.validate(least(endpoint_id) | fields)
    return checked


def test_an_endpoint_has_fields_of_its_own_only_where_fals_client_declares_none() -> None:
    assert UNDECLARED.keys() <= FIELDS.keys()
    assert not UNDECLARED.keys() & fal_ids()


@EACH
def test_it_has_fals_fields_and_no_others_but_seeds_what_a_mask_keeps_and_those_of_drafts(
    catalog: Catalog, endpoint_id: str
) -> None:
    entry = catalog.get_listed(endpoint_id)
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
        default = shown[name].get("default")
        if value is OPTIONAL:
            assert not default, name
        elif value is not NEEDED:
            assert default == value, name
    # A body without the fields has the same defaults.
    filled = {
        name: [] if shown[name].get("type") == "array" else shown[name].get("default")
        for name, value in FIELDS[endpoint_id].items()
        if value is not NEEDED
    }
    assert check(catalog, endpoint_id) == check(catalog, endpoint_id, **filled)


@EACH
def test_every_choice_of_fals_is_shown(catalog: Catalog, endpoint_id: str) -> None:
    shown = properties(catalog, endpoint_id)
    for name, field in (fal_input(endpoint_id) or {}).items():
        types = field.type.types if isinstance(field.type, OneOf) else (field.type,)
        fals = {value for kind in types if isinstance(kind, Choice) for value in kind.values}
        branches = (shown[name], *shown[name].get("anyOf", ()))
        assert fals <= {value for branch in branches for value in branch.get("enum", ())}, name


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
            catalog.get_listed(endpoint_id).schema.validate(body)
        assert [(problem.loc, problem.type) for problem in caught.value.problems] == [
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
    for name in (field for field in least(endpoint_id) if field.endswith("_url")):
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
