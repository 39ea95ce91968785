"""Results as inputs of other requests."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error, Locator, Page, Request, Route, expect

from tests.page.album import Entry
from tests.page.axe import look
from tests.page.darkroom import PageDarkroom
from tests.page.painter import image
from tests.page.reader import Reader, expect_images
from tests.page.test_form import model, refuse
from tests.page.test_lightbox import tone, video

pytestmark = pytest.mark.long

IMAGE = {"type": "string", "description": "An http(s) URL, or a data URI."}
PROMPT = {"type": "string"}


def endpoint(name: str, category: str, **fields: Any) -> dict[str, Any]:
    """Endpoint ``some/name`` as ``/v1/models`` has it."""
    schema = {"type": "object", "required": ["prompt"], "properties": {"prompt": PROMPT, **fields}}
    content = {"application/json": {"schema": schema}}
    document = {"paths": {f"/some/{name}": {"post": {"requestBody": {"content": content}}}}}
    metadata = {"display_name": name.capitalize(), "category": category}
    return model(document, endpoint_id=f"some/{name}", metadata=metadata)


CHANGES = endpoint("changes", "image-to-image", image_url=IMAGE, mask_url=IMAGE)
MOVES = endpoint("moves", "image-to-video", image_url=IMAGE, voice_audio_url=IMAGE)
MIXES = endpoint(
    "mixes", "image-to-image", image_urls={"type": "array", "items": PROMPT, "maxItems": 2}
)
RESTYLES = endpoint("restyles", "video-to-video", video_url=IMAGE)


def offer(page: Page, *models: dict[str, Any]) -> None:
    """Let the Darkroom serve ``models`` too."""

    def more(route: Route) -> None:
        try:
            body = route.fetch().json()
        except Error:  # the test has ended
            return
        route.fulfill(json={**body, "models": [*body["models"], *models]})

    page.route("**/v1/models?*", more)


def submit_form(reader: Reader, name: str) -> dict[str, Any]:
    """Input that the form submits to ``some/name``."""
    reader.page.route(f"**/queue/some/{name}", refuse)
    with reader.page.expect_request(f"**/queue/some/{name}") as submitting:
        reader.page.get_by_role("button", name="Generate").click()
    return submitting.value.post_data_json or {}


def url_of(sheet: Locator) -> str | None:
    return sheet.locator(".print img").first.get_attribute("src")


@pytest.fixture
def reader(reader: Reader) -> Reader:
    offer(reader.page, CHANGES, MOVES, MIXES, RESTYLES)
    reader.page.reload()
    expect(reader.page.get_by_label("Model", exact=True)).to_contain_text("Moves")
    return reader


def test_an_image_becomes_the_input_of_a_model_that_takes_images(reader: Reader) -> None:
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    sheet.get_by_role("button", name="Use as input").click()
    menu = reader.page.get_by_role("dialog", name="Use this image as input")
    expect(menu.get_by_role("button", name="Changes")).to_be_focused()
    expect(menu.get_by_role("heading")).to_have_text(
        ["Use this image as input", "Change it", "Make a video of it"]
    )
    menu.get_by_role("button", name="Moves").click()
    expect(menu).to_be_hidden()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value("some/moves")
    expect(reader.page.locator(".media-preview img")).to_be_visible()
    assert submit_form(reader, "moves") == {"prompt": "a hill", "image_url": url_of(sheet)}


def test_the_model_in_the_form_is_first_and_offers_each_of_its_inputs(reader: Reader) -> None:
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    reader.choose("some/changes")
    sheet.get_by_role("button", name="Use as input").click()
    menu = reader.page.get_by_role("dialog")
    targets = ["Changes.*Image", "Changes.*Mask", "Mixes.*Image", "Moves.*Image"]
    expect(menu.locator(".target")).to_have_text([re.compile(target) for target in targets])
    expect(menu.locator(".target").first).to_be_focused()
    reader.page.keyboard.press("ArrowDown")
    reader.page.keyboard.press("Enter")
    assert submit_form(reader, "changes")["mask_url"] == url_of(sheet)


@pytest.mark.parametrize("name", ["text", "output"])  # of a transcript, and of an answer
def test_a_text_is_shown_as_one_and_becomes_the_prompt_of_a_model(
    reader: Reader, name: str
) -> None:
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    text = "A hill\nat dawn."
    output = {name: text, "chunks": []}
    reader.change_output(sheet.get_attribute("data-request") or "", lambda _: output)
    reader.page.reload()
    expect(sheet.locator("blockquote")).to_have_text(text, use_inner_text=True)
    sheet.get_by_text("Whole output").click()
    expect(sheet.locator("pre")).to_contain_text('"chunks": []')
    look(reader.page)
    sheet.get_by_role("button", name="Use as prompt").click()
    menu = reader.page.get_by_role("dialog", name="Use this text as a prompt")
    expect(menu.get_by_role("heading")).to_have_text(
        ["Use this text as a prompt", "The model in the form", "Other models"]
    )
    menu.get_by_role("button", name="Moves").click()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value("some/moves")
    expect(reader.field("prompt")).to_have_value(text)
    reader.page.get_by_role("button", name="Undo").click()
    expect(reader.field("prompt")).to_have_value("a hill")


def test_a_text_replaces_only_the_prompt_of_the_model_in_the_form(reader: Reader) -> None:
    sheet = reader.generate("a hill", num_images=1)
    expect_images(sheet, 1)
    reader.change_output(sheet.get_attribute("data-request") or "", lambda _: {"text": "a lake"})
    reader.page.reload()
    reader.field("num_images").first.fill("3")
    sheet.get_by_role("button", name="Use as prompt").click()
    menu = reader.page.get_by_role("dialog", name="Use this text as a prompt")
    menu.locator(".target").first.click()
    expect(reader.field("prompt")).to_have_value("a lake")
    expect(reader.field("num_images").first).to_have_value("3")


def test_an_input_of_several_files_takes_several_results(reader: Reader) -> None:
    sheet = reader.generate("a hill", num_images=2)
    expect_images(sheet, 2)
    reader.choose("some/mixes")
    for at in range(2):
        sheet.get_by_role("button", name="Use as input").nth(at).click()
        reader.page.get_by_role("dialog").get_by_role("button", name="Mixes").click()
    expect(reader.page.locator(".media-preview img")).to_have_count(2)
    urls = sheet.locator(".print img").evaluate_all("all => all.map((each) => each.src)")
    assert submit_form(reader, "mixes")["image_urls"] == urls
    sheet.get_by_role("button", name="Use as input").first.click()
    reader.page.get_by_role("dialog").get_by_role("button", name="Mixes").click()
    expect(reader.page.get_by_text("At most 2 are possible.")).to_be_visible()


def choose_files(reader: Reader, folder: Path, *names: str) -> None:
    """Choose local images for the input of several, to which they are added."""
    for name in names:
        (folder / name).write_bytes(image(30, 20, 1, "image/png"))
    chooser = reader.page.get_by_label("choose files")
    chooser.set_input_files([folder / name for name in names])


def test_files_beyond_those_that_an_input_takes_are_left_out_by_name(
    reader: Reader, tmp_path: Path
) -> None:
    reader.choose("some/mixes")
    choose_files(reader, tmp_path, "hill.png")
    choose_files(reader, tmp_path, "lake.png", "sea.png")
    expect(reader.page.locator(".media-preview img")).to_have_count(2)
    words = "At most 2 are possible, so sea.png was left out."
    expect(reader.page.get_by_text(words)).to_be_visible()


def test_the_focus_goes_on_from_a_file_that_is_removed_and_the_estimate_follows(
    reader: Reader, tmp_path: Path
) -> None:
    page = reader.page
    reader.choose("some/mixes")
    reader.field("prompt").fill("a hill")
    with page.expect_request(lambda request: "image_urls" in (request.post_data or "")):
        choose_files(reader, tmp_path, "hill.png", "lake.png")
    page.get_by_role("button", name="Remove hill.png").click()
    expect(page.get_by_role("button", name="Remove lake.png")).to_be_focused()

    def is_without(request: Request) -> bool:
        return request.url.endswith("/v1/estimate") and "image_urls" not in str(request.post_data)

    with page.expect_request(is_without):
        page.keyboard.press("Enter")
        expect(reader.field("image_urls")).to_be_focused()


def test_a_result_can_be_dragged_to_an_input_of_its_kind(reader: Reader) -> None:
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    reader.choose("some/moves")
    picture = sheet.locator(".print img")
    picture.drag_to(reader.page.locator(".field.media", has_text="Voice audio"))
    expect(reader.page.get_by_text("is not an audio file.")).to_be_visible()
    picture.drag_to(reader.page.locator(".field.media", has_text="Choose or drop an image"))
    assert submit_form(reader, "moves") == {"prompt": "a hill", "image_url": url_of(sheet)}


def drag(page: Page, source: Locator, target: Locator) -> None:
    """Drag to a target that is there only during the drag."""
    source.hover()
    page.mouse.down()
    page.mouse.move(5, 5, steps=2)
    expect(target).to_be_visible()
    box = target.bounding_box()
    assert box is not None
    for shift in range(2):  # the first one enters it
        page.mouse.move(box["x"] + 20 + shift, box["y"] + 20)
    page.mouse.up()


def test_an_image_is_dragged_from_the_gallery_to_a_model_that_makes_videos(reader: Reader) -> None:
    page = reader.page
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    source = url_of(sheet)
    page.get_by_role("link", name="Gallery").click()
    place = page.locator(".drop-place")
    drag(page, page.get_by_role("link", name="a hill"), place)
    expect(place).to_have_count(0)
    menu = page.get_by_role("dialog", name="Use this image as input")
    menu.get_by_role("button", name="Moves").click()
    expect(page.locator("#model")).to_have_value("some/moves")
    assert submit_form(reader, "moves") == {"prompt": "a hill", "image_url": source}


def test_an_image_is_dragged_out_of_its_large_view(reader: Reader) -> None:
    page = reader.page
    expect_images(reader.generate("a hill"), 1)
    page.get_by_role("link", name="Gallery").click()
    page.get_by_role("link", name="a hill").click()
    drag(page, page.get_by_role("dialog").locator(".drag-handle"), page.locator(".drop-place"))
    menu = page.get_by_role("dialog")
    expect(menu).to_have_accessible_name("Use this image as input")  # the large view is closed
    menu.get_by_role("button", name="Moves").click()
    expect(page.locator(".media-preview img")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("grid", name="Results")).to_be_visible()


@pytest.mark.parametrize(
    ("target", "field", "other"),
    [
        ("restyles", "video_url", "Choose or drop a video"),
        ("moves", "voice_audio_url", "Choose or drop an audio file"),
    ],
)
def test_a_video_and_audio_are_dragged_by_their_handles(
    reader: Reader, installation: PageDarkroom, tmp_path: Path, target: str, field: str, other: str
) -> None:
    film, sound = (video(tmp_path / "film.webm"), "webm"), (tone(), "wav")
    content, extension = film if target == "restyles" else sound
    entry = Entry("a film", timedelta(minutes=1), content=content, extension=extension)
    installation.hang([entry])
    reader.page.reload()
    reader.choose(f"some/{target}")
    reader.field("prompt").fill("a hill")
    handle = reader.page.locator(".sheet .drag-handle")
    handle.drag_to(reader.page.locator(".field.media", has_text=other))
    expect(reader.page.locator(".media-preview")).to_be_visible()
    expect(reader.page.locator(".drop-place")).to_have_count(0)  # the form has an input for it
    sent = submit_form(reader, target)[field]
    assert sent == reader.page.locator(".sheet :is(video, audio)").get_attribute("src")


def test_a_file_of_this_darkroom_is_shown_again_after_a_reload(reader: Reader) -> None:
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    reader.choose("some/mixes")
    sheet.get_by_role("button", name="Use as input").click()
    reader.page.get_by_role("dialog").get_by_role("button", name="Mixes").click()
    reader.page.reload()
    picture = reader.page.locator(".media-preview img")
    expect(picture).to_be_visible()
    assert picture.evaluate("each => each.decode().then(() => each.naturalWidth)") > 0


def test_a_tool_that_could_not_be_loaded_says_so_and_works_later(reader: Reader) -> None:
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    reader.page.route("**/tools.css", lambda route: route.abort())
    sheet.get_by_role("button", name="Use as input").click()
    expect(reader.page.get_by_role("alert")).to_contain_text("could not be loaded")
    reader.page.unroute("**/tools.css")
    sheet.get_by_role("button", name="Use as input").click()
    expect(reader.page.get_by_role("dialog")).to_be_visible()


def test_an_upload_of_a_form_that_was_left_holds_up_no_other_model(
    reader: Reader, tmp_path: Path
) -> None:
    page = reader.page
    file = tmp_path / "hill.png"
    file.write_bytes(bytes(3_000_000))
    unanswered: list[Route] = []
    urls: list[str] = []

    def hold(route: Route) -> None:
        unanswered.append(route)

    def note(route: Route) -> None:
        urls.append(route.request.url)
        refuse(route)

    page.route("**/files/**", hold)
    page.route("**/queue/**", note)
    reader.choose("some/changes")
    reader.field("prompt").fill("a hill")
    with page.expect_request("**/files/**"):
        page.get_by_label("Image: choose a file").set_input_files(file)
    generate = page.get_by_role("button", name="Generate")
    generate.click()
    expect(generate).to_have_attribute("aria-busy", "true")
    reader.choose("some/moves")
    expect(generate).not_to_have_attribute("aria-busy", "true")
    assert urls == []  # what was asked for is not in the form any more
    generate.click()
    expect(page.locator("#form-problem")).to_have_text("Not now.")
    assert [url.rpartition("/")[2] for url in urls] == ["moves"]


def test_a_file_that_is_removed_before_its_upload_begins_is_not_uploaded(
    reader: Reader, tmp_path: Path
) -> None:
    page = reader.page
    file = tmp_path / "hill.png"
    file.write_bytes(bytes(3_000_000))
    begun: list[Route] = []
    sent: list[str] = []

    def hold(route: Route) -> None:
        begun.append(route)

    def note(route: Route) -> None:
        sent.append(route.request.url)
        route.continue_()

    page.route("**/upload/initiate", hold)
    page.route("**/files/**", note)
    reader.choose("some/changes")
    reader.field("prompt").fill("a hill")
    with page.expect_request("**/upload/initiate"):
        page.get_by_label("Image: choose a file").set_input_files(file)
    page.get_by_role("button", name="Remove hill.png").click()
    with page.expect_response("**/upload/initiate"):
        begun[0].continue_()
    assert "image_url" not in submit_form(reader, "changes")  # it waits for uploads
    assert sent == []


def use_again(reader: Reader, words: str) -> None:
    reader.request_rows.filter(has_text=words).locator(".request").click()
    reader.page.get_by_role("dialog").get_by_role("button", name="Use again").click()


def test_settings_of_a_model_that_is_not_served_do_not_fill_the_form_of_another(
    reader: Reader,
) -> None:
    page = reader.page
    reader.darkroom.hang([Entry("an old hill", timedelta(minutes=1), endpoint="house/gone")])
    reader.field("prompt").fill("my own words")
    use_again(reader, "an old hill")
    expect(page.locator("#form-problem")).to_have_text("This Darkroom does not serve house/gone.")
    expect(page.get_by_label("Model", exact=True)).to_have_value("fal-ai/flux/schnell")
    expect(reader.field("prompt")).to_have_value("my own words")


def test_settings_of_a_model_that_was_added_since_the_page_was_opened_fill_its_form(
    reader: Reader,
) -> None:
    page = reader.page
    reader.darkroom.hang([Entry("a new hill", timedelta(minutes=1), endpoint="some/fresh")])
    offer(page, CHANGES, endpoint("fresh", "text-to-image"))
    use_again(reader, "a new hill")
    expect(page.get_by_label("Model", exact=True)).to_have_value("some/fresh")
    expect(page.locator("#model-about")).to_contain_text("some/fresh")
    assert submit_form(reader, "fresh")["prompt"] == "a new hill"


def test_what_was_entered_for_a_model_does_not_break_the_form_of_one_with_other_types(
    reader: Reader,
) -> None:
    words = {"type": "array", "items": {"type": "string"}}
    text = endpoint("texts", "text-to-image", tags={"type": "string"}, image_urls=PROMPT)
    lists = endpoint("lists", "text-to-image", tags=words, image_urls=words, style=PROMPT)
    objects = endpoint("objects", "text-to-image", style={"type": "object"})
    offer(reader.page, text, lists, objects)
    reader.page.reload()
    reader.choose("some/texts")
    reader.unfold()
    reader.field("prompt").fill("a hill")
    reader.field("tags").fill("soft")
    reader.field("image_urls").fill("https://example.org/a.png")
    reader.choose("some/lists")
    assert submit_form(reader, "lists") == {"prompt": "a hill"}
    reader.choose("some/objects")
    reader.field("style").fill('{"a": 1}')
    reader.choose("some/lists")
    assert submit_form(reader, "lists") == {"prompt": "a hill"}


def test_a_file_that_was_being_uploaded_comes_back_when_use_again_is_undone(
    reader: Reader, tmp_path: Path
) -> None:
    page = reader.page
    sheet = reader.generate("a hill")
    expect_images(sheet, 1)
    file = tmp_path / "hill.png"
    file.write_bytes(bytes(3_000_000))
    unanswered: list[Route] = []

    def hold(route: Route) -> None:
        unanswered.append(route)

    page.route("**/files/**/upload/**", hold)
    reader.choose("some/changes")
    with page.expect_request("**/files/**/upload/**"):
        page.get_by_label("Image: choose a file").set_input_files(file)
    sheet.get_by_role("button", name="Use again").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("fal-ai/flux/schnell")
    page.unroute("**/files/**/upload/**")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("some/changes")
    expect(page.locator(".media-chosen").first).to_contain_text("hill.png")
    assert "/files/" in submit_form(reader, "changes")["image_url"]
