"""The form follows the schema of any endpoint."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.page.painter import image
from tests.page.reader import Reader

SIZES = ["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]

DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.4",
    "paths": {
        "/some/model": {
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/SomeModelInput"}
                        }
                    }
                }
            }
        }
    },
    "components": {
        "schemas": {
            "ImageSize": {
                "type": "object",
                "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
            },
            "LoraWeight": {
                "type": "object",
                "required": ["path"],
                "properties": {
                    "path": {"type": "string", "description": "A *.safetensors file."},
                    "scale": {"type": "number", "minimum": -4, "maximum": 4, "default": 1},
                },
            },
            "SomeModelInput": {
                "type": "object",
                "required": ["prompt", "image_url", "voice"],
                "x-fal-order-properties": ["image_url", "prompt"],
                "properties": {
                    "prompt": {"type": "string", "title": "Prompt"},
                    "negative_prompt": {"type": "string", "default": "blur"},
                    "image_url": {
                        "type": "string",
                        "description": "An http(s) URL, or a data URI.",
                    },
                    "mask_url": {"type": "string", "nullable": True},
                    "reference_image_urls": {"type": "array", "items": {"type": "string"}},
                    "clip": {
                        "type": "string",
                        "ui": {"field": "video"},
                        "description": "Any of `mp4`, `webm`.",
                    },
                    "image_size": {
                        "description": "How large.",
                        "default": "portrait_4_3",
                        "anyOf": [
                            {"$ref": "#/components/schemas/ImageSize"},
                            {"type": "string", "enum": SIZES},
                        ],
                    },
                    "voice": {"type": "string", "enum": ["alto", "bass"]},
                    "strength": {"type": "number", "minimum": 0.01, "maximum": 1, "default": 0.95},
                    "num_images": {"type": "integer", "minimum": 1, "maximum": 4, "default": 1},
                    "seed": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                    "crop": {"type": "boolean", "default": True},
                    "output_format": {
                        "allOf": [{"enum": ["png", "jpeg"], "type": "string"}],
                        "default": "png",
                    },
                    "loras": {
                        "type": "array",
                        "maxItems": 2,
                        "items": {"$ref": "#/components/schemas/LoraWeight"},
                    },
                    "seeds": {
                        "anyOf": [
                            {"type": "array", "items": {"type": "integer"}},
                            {"type": "null"},
                        ]
                    },
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
                    "curve": {"type": "array", "items": {"type": "object"}},
                    "acceleration": {"type": "string", "description": "Has no effect here: x."},
                    "checker": {"type": "boolean", "x-darkroom-no-effect": True},
                    "embeddings": {"type": "array", "x-darkroom-not-supported": True},
                    "draft": {"type": "object", "properties": {"count": {"type": "integer"}}},
                    "from_draft": {"type": "string"},
                },
            },
        }
    },
}


def model(document: dict[str, Any], **more: Any) -> dict[str, Any]:
    metadata = {"display_name": "Some model", "category": "image-to-image"}
    return {"endpoint_id": "some/model", "metadata": metadata, "openapi": document, **more}


@pytest.fixture
def strange(page: Page, idle: Any) -> Reader:
    """User at the form of an endpoint that is known only from its OpenAPI document."""
    listed = {"models": [model(DOCUMENT)], "next_cursor": None, "has_more": False}
    page.route("**/v1/models*", lambda route: route.fulfill(json=listed))
    reader = Reader(page, idle)
    reader.enter("some/model")
    return reader


def refuse(route: Route) -> None:
    """Answer a submit so that the page does not repeat it."""
    route.fulfill(status=400, json={"detail": "Not now."})


def submit_form(reader: Reader) -> dict[str, Any]:
    """Input that the form submits in its current state."""
    reader.page.route("**/queue/some/model", refuse)
    with reader.page.expect_request("**/queue/some/model") as submitting:
        reader.page.get_by_role("button", name="Generate").click()
    return submitting.value.post_data_json


def fill_required(reader: Reader) -> None:
    reader.field("prompt").fill("a hill")
    reader.field("image_url").fill("https://example.org/hill.png")
    reader.field("voice").select_option("alto")


@pytest.mark.long
def test_a_size_that_is_left_is_that_of_the_image_where_the_endpoint_offers_it(
    page: Page, idle: Any
) -> None:
    document = deepcopy(DOCUMENT)
    fields = document["components"]["schemas"]["SomeModelInput"]["properties"]
    fields["image_size"]["anyOf"][1]["enum"] = [*SIZES, "auto"]
    listed = {"models": [model(document)], "next_cursor": None, "has_more": False}
    page.route("**/v1/models*", lambda route: route.fulfill(json=listed))
    reader = Reader(page, idle)
    reader.enter("some/model")
    expect(reader.field("image_size")).to_have_value("auto")
    fill_required(reader)
    assert submit_form(reader)["image_size"] == "auto"
    reader.field("image_size").select_option("portrait_4_3")
    assert submit_form(reader)["image_size"] == "portrait_4_3"


def test_each_kind_of_field_has_its_control(strange: Reader) -> None:
    strange.unfold()
    kinds = {
        name: strange.field(name).evaluate("it => it.type ?? it.tagName.toLowerCase()")
        for name in DOCUMENT["components"]["schemas"]["SomeModelInput"]["properties"]
        if strange.field(name).count()
    }
    assert kinds == {
        "prompt": "textarea",
        "negative_prompt": "textarea",
        "image_url": "text",
        "mask_url": "text",
        "reference_image_urls": "textarea",
        "clip": "text",
        "image_size": "select-one",
        "voice": "select-one",
        "strength": "number",
        "num_images": "number",
        "seed": "number",
        "crop": "checkbox",
        "output_format": "select-one",
        "loras": "button",
        "seeds": "text",
        "tags": "textarea",
        "curve": "textarea",
    }


@pytest.mark.long
def test_required_fields_are_marked_and_come_in_the_schema_s_order(strange: Reader) -> None:
    labels = strange.page.locator("#fields .field > label").all_inner_texts()
    assert [label.split()[0] for label in labels[:2]] == ["Image", "Prompt"]
    expect(strange.field("image_url")).to_have_attribute("aria-required", "true")
    expect(strange.page.locator("#fields .mark")).to_have_count(3)


@pytest.mark.long
def test_settings_that_few_change_are_folded_away(strange: Reader) -> None:
    expect(strange.field("image_size")).to_be_visible()
    expect(strange.field("strength")).to_be_hidden()
    strange.unfold()
    expect(strange.field("strength")).to_be_visible()


def test_defaults_are_shown_and_not_sent(strange: Reader) -> None:
    expect(strange.field("negative_prompt")).to_have_attribute("placeholder", "blur")
    expect(strange.field("num_images")).to_have_attribute("placeholder", "1")
    expect(strange.field("image_size")).to_have_value("portrait_4_3")
    fill_required(strange)
    assert submit_form(strange) == {
        "prompt": "a hill",
        "image_url": "https://example.org/hill.png",
        "voice": "alto",
    }


def test_what_is_changed_is_sent_as_its_type(strange: Reader) -> None:
    fill_required(strange)
    strange.unfold()
    strange.page.get_by_label("Number of images, slider").fill("3")
    strange.field("strength").fill("0.5")
    strange.field("seed").fill("-7")
    strange.field("crop").uncheck()
    strange.field("output_format").select_option("jpeg")
    strange.field("curve").fill('[{"x": 1}]')
    strange.field("seeds").fill("1, 18446744073709551557")
    strange.field("image_size").select_option("own")
    strange.page.get_by_label("Width in pixels").fill("640")
    strange.page.get_by_label("Height in pixels").fill("320")
    strange.field("reference_image_urls").fill("https://a.example/1.png\nhttps://a.example/2.png")
    changed = {
        "num_images": 3,
        "strength": 0.5,
        "seed": -7,
        "crop": False,
        "output_format": "jpeg",
        "curve": [{"x": 1}],
        "seeds": [1, 18446744073709551557],
        "image_size": {"width": 640, "height": 320},
        "reference_image_urls": ["https://a.example/1.png", "https://a.example/2.png"],
    }
    sent_input = submit_form(strange)
    assert {name: sent_input[name] for name in changed} == changed


def test_a_file_goes_in_as_a_data_uri(strange: Reader, tmp_path: Path) -> None:
    file = tmp_path / "hill.png"
    file.write_bytes(image(8, 8, 1, "image/png"))
    fill_required(strange)
    strange.page.get_by_label("Image: choose a file").set_input_files(file)
    expect(strange.page.locator(".media-preview img")).to_be_visible()
    strange.page.get_by_label("Reference image: choose files").set_input_files([file, file])
    sent_input = submit_form(strange)
    assert sent_input["image_url"].startswith("data:image/png;base64,iVBOR")
    assert sent_input["reference_image_urls"] == [sent_input["image_url"]] * 2
    strange.page.get_by_role("button", name="Remove hill.png").first.click()
    assert submit_form(strange)["image_url"] == "https://example.org/hill.png"


@pytest.mark.long
def test_a_model_that_is_not_served_cannot_be_chosen(page: Page, idle: Any) -> None:
    away = model(DOCUMENT, darkroom={"served": False, "reason": "Its weights are not here."})
    both = [away | {"endpoint_id": "other/model"}, model(DOCUMENT)]
    page.route("**/v1/models*", lambda route: route.fulfill(json={"models": both}))
    Reader(page, idle).enter("some/model")
    expect(page.locator("#model option")).to_have_count(1)
    expect(page.get_by_text("Its weights are not here.")).to_be_hidden()
    page.get_by_text("1 model is not served here").click()
    expect(page.get_by_text("Its weights are not here.")).to_be_visible()


def test_a_model_without_a_schema_still_takes_a_prompt(page: Page, idle: Any) -> None:
    bare = {"models": [{"endpoint_id": "some/model"}]}
    page.route("**/v1/models*", lambda route: route.fulfill(json=bare))
    reader = Reader(page, idle)
    reader.enter("some/model")
    reader.field("prompt").fill("a hill")
    assert submit_form(reader) == {"prompt": "a hill"}


@pytest.mark.long
def test_the_list_of_models_is_read_page_by_page(page: Page, idle: Any) -> None:
    first = {"models": [model(DOCUMENT)], "next_cursor": "some/model", "has_more": True}
    rest = {"models": [model(DOCUMENT) | {"endpoint_id": "z/z"}], "next_cursor": None}
    page.route(
        "**/v1/models*",
        lambda route: route.fulfill(json=rest if "cursor=" in route.request.url else first),
    )
    Reader(page, idle).enter("some/model")
    expect(page.locator("#model option")).to_have_count(2)


@pytest.mark.long
def test_models_stand_in_groups_by_what_they_make(page: Page, idle: Any) -> None:
    def made(name: str, category: str) -> dict[str, Any]:
        return {"endpoint_id": name, "metadata": {"category": category}}

    several = [
        made("a/sound", "text-to-audio"),
        made("a/hill", "text-to-image"),
        made("a/odd", "unheard-of"),
        made("a/edit", "image-to-image"),
    ]
    page.route("**/v1/models*", lambda route: route.fulfill(json={"models": several}))
    Reader(page, idle).enter("a/hill")
    groups = page.locator("#model optgroup")
    labels = groups.evaluate_all("all => all.map((each) => each.label)")
    assert labels == ["Images", "Images from images", "Audio", "Others"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("category", "words"), [("text-to-audio", "the audio"), ("text-to-video", "a video")]
)
def test_the_words_are_those_of_what_the_model_makes(
    page: Page, idle: Any, category: str, words: str
) -> None:
    sound = model(DOCUMENT, darkroom_demo=True, darkroom={"about_demo": "It plays three tones."})
    sound["metadata"] = {"category": category}
    page.route("**/v1/models*", lambda route: route.fulfill(json={"models": [sound]}))
    Reader(page, idle).enter("some/model")
    expect(page.locator("#empty")).to_contain_text(f"Describe {words} and generate it.")
    expect(page.locator("#model-demo")).to_contain_text("It plays three tones.")
    expect(page.locator("#model-demo")).not_to_contain_text("shapes")


@pytest.mark.long
def test_an_example_fills_the_form_and_leaves_the_rest(page: Page, idle: Any) -> None:
    examples = [{"input": {"prompt": "a red circle", "num_images": 2}}]
    shown = model(DOCUMENT, darkroom={"examples": examples})
    page.route("**/v1/models*", lambda route: route.fulfill(json={"models": [shown]}))
    reader = Reader(page, idle)
    reader.enter("some/model")
    expect(reader.field("prompt")).to_have_attribute("placeholder", "Such as: a red circle")
    reader.field("image_size").select_option("square")
    page.locator("#empty").get_by_role("button", name="a red circle").click()
    expect(reader.field("prompt")).to_have_value("a red circle")
    expect(reader.field("num_images")).to_have_value("2")
    expect(reader.field("image_size")).to_have_value("square")


@pytest.mark.long
def test_help_is_in_words_for_people(strange: Reader) -> None:
    strange.unfold()
    form = strange.page.locator("#form")
    expect(form).not_to_contain_text("`")
    expect(form).not_to_contain_text("data URI")


def test_after_a_reload_the_server_s_problems_are_told_at_their_fields_too(strange: Reader) -> None:
    page = strange.page
    fill_required(strange)
    page.reload()  # the form is shown from the browser's storage, before the server answers
    expect(strange.field("prompt")).to_have_value("a hill")
    expect(page.get_by_label("Model", exact=True)).to_contain_text("Some model")
    refusal = {"detail": [{"loc": ["body", "image_url"], "msg": "No image there.", "type": "x"}]}
    page.route("**/queue/some/model", lambda route: route.fulfill(status=422, json=refusal))
    page.get_by_role("button", name="Generate").click()
    expect(strange.problem_of("image_url")).to_have_text("No image there.")
