"""Inputs that ask for drafts, and inputs that go on from one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.fields.drafts import beneath, makes_drafts
from serve_app.catalog.work import drafting_of, expected_quantities, work_of
from serve_app.domain.billing.price import PriceUnit
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.draft import DRAFT_TYPE, StoredDraft

SCHNELL, SDXL = "fal-ai/flux/schnell", "fal-ai/fast-sdxl"
VIDEO, AUDIO = "fal-ai/wan/v2.2-5b/text-to-video", "fal-ai/stable-audio"
REDRAWN = "fal-ai/flux/dev/image-to-image"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DRAFT = StoredDraft("one", "ann", "r", SCHNELL, "d/1", 7, 42, 1, 4, 0.7, NOW, NOW)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load(None, demo=False, demo_dir=Path("/nowhere"))


def validate_body(catalog: Catalog, endpoint_id: str, **fields: Any) -> dict[str, Any]:
    return catalog.get_listed(endpoint_id).schema.validate({"prompt": "x", **fields})[0]


def validate_continuation(
    catalog: Catalog, endpoint_id: str, origin: dict[str, Any], **fields: Any
) -> dict[str, Any]:
    body = {"from_draft": "one", **fields}
    schema = catalog.get_listed(endpoint_id).schema
    return schema.validate(body, beneath(validate_body(catalog, endpoint_id, **origin), DRAFT))[0]


@pytest.mark.parametrize("endpoint_id", [SCHNELL, SDXL, VIDEO, AUDIO])
def test_each_draft_has_the_files_of_an_output_and_one_of_its_own(
    catalog: Catalog, endpoint_id: str
) -> None:
    types = catalog.get_listed(endpoint_id).schema.media_types
    single = validate_body(catalog, endpoint_id, seed=1)
    eight = validate_body(catalog, endpoint_id, draft={"count": 8})
    assert eight["draft"] == {"count": 8, "until": 0.25}
    assert types(eight) == (*types(single), DRAFT_TYPE) * 8
    assert work_of(eight) == pytest.approx(8 * 0.25 * work_of(single))


@pytest.mark.parametrize(
    ("endpoint_id", "fields", "share"),
    [
        (SDXL, {"num_inference_steps": 28}, "0.25"),
        (SDXL, {"num_inference_steps": 10}, "0.2"),  # of ten steps, two are the nearest
        (REDRAWN, {"num_inference_steps": 20, "strength": 0.5}, "0.2"),  # of ten steps, again
        (SDXL, {"num_inference_steps": 28, "draft": {"count": 8, "noise": 0.5}}, "1"),
    ],
)
def test_drafts_are_expected_to_cost_their_share_of_the_steps(
    catalog: Catalog, endpoint_id: str, fields: dict[str, Any], share: str
) -> None:
    source = {"image_url": "https://example.com/a.png"} if endpoint_id == REDRAWN else {}
    eight = validate_body(catalog, endpoint_id, **{"draft": {"count": 8}, **source, **fields})
    quantities = expected_quantities(catalog.get_listed(endpoint_id).endpoint, eight)
    assert (quantities.images, quantities.of(PriceUnit.IMAGE)) == (8, 8 * Decimal(share))
    assert quantities.of(PriceUnit.REQUEST) == 1


def test_drafts_of_a_video_are_expected_to_take_the_seconds_of_their_steps(
    catalog: Catalog,
) -> None:
    whole = validate_body(catalog, VIDEO, num_inference_steps=40)
    four = validate_body(catalog, VIDEO, num_inference_steps=40, draft={"count": 4})
    endpoint = catalog.get_listed(VIDEO).endpoint
    seconds = expected_quantities(endpoint, whole).seconds
    assert expected_quantities(endpoint, four).seconds == seconds
    assert expected_quantities(endpoint, whole, left=0.75).seconds * 4 == seconds * 3


def test_an_input_without_drafts_shows_none_of_their_fields(catalog: Catalog) -> None:
    assert (
        not {"draft", "from_draft", "new_noise", "noise_seed"} & validate_body(catalog, SDXL).keys()
    )


def test_there_are_four_drafts_or_one_for_each_seed(catalog: Catalog) -> None:
    assert validate_body(catalog, SCHNELL, draft={})["draft"] == {"count": 4, "until": 0.25}
    six = validate_body(catalog, SCHNELL, draft={"until": 0.5}, seeds=[1, 2, 3, 4, 5, 6])
    assert six["draft"] == {"count": 6, "until": 0.5}
    assert (six["num_images"], len(six["seeds"])) == (1, 6)
    assert validate_body(catalog, VIDEO, draft={"noise": 0.8})["draft"] == {
        "count": 4,
        "noise": 0.8,
    }


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"draft": {"count": 17}}, "draft.count"),
        ({"draft": {"count": 0}}, "draft.count"),
        ({"draft": {"until": 0.95}}, "draft.until"),
        ({"draft": {"noise": 1.5}}, "draft.noise"),
        ({"draft": {"until": 0.5, "noise": 0.5}}, "draft.noise"),
        ({"draft": {"steps": 3}}, "draft.steps"),
        ({"draft": 8}, "draft"),
        ({"draft": {}, "num_images": 3}, "num_images"),
        ({"draft": {}, "seeds": [1], "seed": 1}, "seed"),
        ({"draft": {}, "seeds": list(range(17))}, "seeds"),
        ({"draft": {"count": 3}, "seeds": [1, 2]}, "seeds"),
        ({"draft": {}, "num_inference_steps": 1}, "num_inference_steps"),
        ({"new_noise": 0.5}, "new_noise"),
        ({"noise_seed": 3}, "noise_seed"),
        ({"from_draft": "one"}, "from_draft"),
    ],
)
def test_what_disagrees_is_refused_by_its_name(
    catalog: Catalog, fields: dict[str, Any], at_fault: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate_body(catalog, SCHNELL, **fields)
    assert ".".join(map(str, refused.value.problems[0].loc[1:])) == at_fault


def test_a_redrawn_image_needs_two_steps_for_a_draft(catalog: Catalog) -> None:
    fields: dict[str, Any] = {"image_url": "https://host.test/a.png", "num_inference_steps": 10}
    validate_body(catalog, REDRAWN, draft={}, strength=0.2, **fields)
    with pytest.raises(InvalidInput, match="strength"):
        validate_body(catalog, REDRAWN, draft={}, strength=0.1, **fields)


@pytest.mark.parametrize("endpoint_id", ["fal-ai/ace-step", "fal-ai/esrgan"])
def test_endpoints_that_make_no_drafts_have_no_such_fields(
    catalog: Catalog, endpoint_id: str
) -> None:
    schema = catalog.get_listed(endpoint_id).schema
    assert not schema.makes_drafts
    assert "draft" not in schema.json_schema()["properties"]
    for name, value in {"draft": {}, "from_draft": "one"}.items():
        with pytest.raises(InvalidInput, match=f"{name}: This endpoint makes no drafts"):
            schema.validate({"image_url": "https://h.test/a.png", "tags": "x", name: value})


def test_a_draft_goes_on_with_its_own_input_and_seed(catalog: Catalog) -> None:
    origin: dict[str, Any] = {"seeds": [41, 42], "draft": {}, "image_size": "square"}
    body = validate_continuation(catalog, SCHNELL, origin)
    assert (body["prompt"], body["seed"], body["num_images"]) == ("x", 42, 1)
    assert body["image_size"] == {"width": 512, "height": 512}
    assert body["from_draft"] == "one"
    assert not {"draft", "seeds"} & body.keys()


def test_what_a_draft_leaves_open_may_change(catalog: Catalog) -> None:
    body = validate_continuation(
        catalog,
        SDXL,
        {"draft": {}},
        prompt="y",
        guidance_scale=2.0,
        loras=[{"path": "https://host.test/a.safetensors"}],
        new_noise=0.5,
        noise_seed=9,
        image_size="square_hd",
        num_images=1,
    )
    assert (body["prompt"], body["guidance_scale"], body["new_noise"]) == ("y", 2.0, 0.5)
    assert body["noise_seed"] == 9


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"image_size": "square"}, "image_size"),
        ({"num_inference_steps": 3}, "num_inference_steps"),
        ({"num_images": 2}, "num_images"),
        ({"seeds": [1, 2]}, "seeds"),
        ({"seed": 43}, "seed"),
        ({"draft": {}}, "draft"),
        ({"new_noise": 2}, "new_noise"),
    ],
)
def test_what_a_draft_has_decided_is_refused_by_its_name(
    catalog: Catalog, fields: dict[str, Any], at_fault: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate_continuation(catalog, SCHNELL, {"draft": {}}, **fields)
    assert refused.value.problems[0].loc[1] == at_fault


def test_the_length_of_a_video_is_decided(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="num_frames"):
        validate_continuation(catalog, VIDEO, {"draft": {}, "num_frames": 17}, num_frames=33)


def test_an_entry_that_names_a_class_without_drafts_makes_none() -> None:
    endpoint = Endpoint("house/any", "generic", Weights("any"), "any")
    assert makes_drafts(endpoint)
    named = replace(endpoint, options={"pipeline": "KandinskyCombinedPipeline"})
    assert not makes_drafts(named)


@pytest.mark.parametrize("value", [True, "rough", 3, [1], {}, {"count": "two", "until": 0.5}, None])
def test_a_field_of_an_app_that_is_called_draft_makes_no_drafts(
    catalog: Catalog, value: Any
) -> None:
    own = {"prompt": "x", "num_images": 2, "draft": value}
    without = {"prompt": "x", "num_images": 2}
    assert drafting_of(own) is None
    assert work_of(own) == work_of(without)
    endpoint = catalog.get_listed(SDXL).endpoint
    assert expected_quantities(endpoint, own) == expected_quantities(endpoint, without)
