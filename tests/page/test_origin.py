"""Files that are dropped or pasted anywhere on the page: what made them fills the form, and others
become inputs."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import expect

from serve_app.domain.media.file_metadata import FileMetadata
from tests.page.reader import FLUX, PROBE, Reader, expect_said
from tests.page.test_reuse import CHANGES, MIXES, offer, submit_form

pytestmark = pytest.mark.long

GIVE = """([place, kind, content, name, type]) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const files = new DataTransfer();
    files.items.add(new File([bytes], name, { type }));
    const options = { bubbles: true, cancelable: true };
    const event = kind === "drop"
        ? new DragEvent("drop", { ...options, dataTransfer: files })
        : new ClipboardEvent("paste", { ...options, clipboardData: files });
    document.querySelector(place).dispatchEvent(event);
    return event.defaultPrevented;
}"""


def make_png(**changes: Any) -> bytes:
    """PNG that says what made it."""
    metadata: dict[str, Any] = {
        "endpoint": FLUX,
        "model": "hub/flux",
        "seed": 2**60 + 1,
        "prompt": "a hill “of” {braces} and \\ ümlauts",
        "settings": {"num_inference_steps": 7, "image_size": {"width": 512, "height": 256}},
    }
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", FileMetadata(**(metadata | changes)).text())
    return png(pnginfo=info)


def png(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), "teal").save(buffer, "PNG", **options)
    return buffer.getvalue()


def give(
    reader: Reader,
    content: bytes,
    place: str = "body",
    kind: str = "drop",
    name: str = "found.png",
    media_type: str = "image/png",
) -> bool:
    text = base64.b64encode(content).decode()
    return reader.page.evaluate(GIVE, [place, kind, text, name, media_type])


def drop_all(reader: Reader, *contents: bytes) -> None:
    """Drop images ``1.png``, ``2.png``, … beside the inputs."""
    reader.page.evaluate(
        """contents => {
            const dataTransfer = new DataTransfer();
            contents.forEach((content, at) => {
                const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
                const file = new File([bytes], `${at + 1}.png`, { type: "image/png" });
                dataTransfer.items.add(file);
            });
            const options = { bubbles: true, cancelable: true, dataTransfer };
            document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
        [base64.b64encode(content).decode() for content in contents],
    )


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_file_of_a_darkroom_fills_the_form_with_all_that_made_it(
    reader: Reader, kind: str
) -> None:
    reader.choose(PROBE)
    assert give(reader, make_png(), kind=kind)
    dialog = reader.page.get_by_role("dialog", name="What made this file")
    expect(dialog).to_contain_text("a hill “of” {braces}")
    expect(dialog).to_contain_text(str(2**60 + 1))
    expect(dialog).to_contain_text("512 × 256")
    dialog.get_by_role("button", name="Use these settings").click()
    expect(dialog).to_have_count(0)
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value(FLUX)
    expect(reader.field("prompt")).to_have_value("a hill “of” {braces} and \\ ümlauts")
    expect(reader.field("seed")).to_have_value(str(2**60 + 1))
    expect(reader.field("num_inference_steps").first).to_have_value("7")


def test_it_fills_the_form_also_from_the_gallery_and_with_a_new_seed(reader: Reader) -> None:
    reader.page.get_by_role("link", name="Gallery").click()
    expect(reader.page.get_by_text("Your results appear here.")).to_be_visible()
    give(reader, make_png(prompt="a lake"))
    reader.page.get_by_role("button", name="New seed").click()
    expect(reader.field("prompt")).to_have_value("a lake")
    expect(reader.field("seed")).to_have_value("")


def test_a_file_of_an_app_without_a_seed_offers_no_other_one(reader: Reader) -> None:
    give(reader, make_png(seed=None, prompt="a lake"))
    dialog = reader.page.get_by_role("dialog", name="What made this file")
    expect(dialog).to_contain_text("a lake")
    expect(dialog).not_to_contain_text("eed")
    dialog.get_by_role("button", name="Use these settings").click()
    expect(reader.field("prompt")).to_have_value("a lake")
    expect(reader.field("seed")).to_have_value("")


@pytest.mark.parametrize("older", [False, True])
def test_the_seed_0_of_a_file_fills_the_form(reader: Reader, *, older: bool) -> None:
    content = make_png(seed=0, prompt="a lake")
    # Older versions left out the seed 0.
    give(reader, content.replace(b',"seed":0', b"") if older else content)
    reader.page.get_by_role("button", name="Use these settings").click()
    expect(reader.field("prompt")).to_have_value("a lake")
    expect(reader.field("seed")).to_have_value("0")


def test_a_file_that_is_no_input_and_says_nothing_is_told(reader: Reader) -> None:
    give(reader, b"a,b", name="table.csv", media_type="text/csv")
    dialog = reader.page.get_by_role("dialog", name="What made this file")
    expect(dialog).to_contain_text("This file does not say what made it.")
    expect(dialog.get_by_role("button", name="Use as input")).to_have_count(0)
    reader.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_that_says_nothing_goes_into_the_input_in_sight(reader: Reader, kind: str) -> None:
    offer(reader.page, CHANGES)
    reader.page.reload()
    reader.choose("some/changes")
    reader.field("prompt").fill("a hill")
    assert give(reader, png(), kind=kind)
    expect(reader.page.locator(".media-preview img")).to_be_visible()
    expect(reader.page.get_by_role("dialog")).to_have_count(0)
    sent = submit_form(reader, "changes")
    assert "mask_url" not in sent
    assert sent["image_url"] == "data:image/png;base64," + base64.b64encode(png()).decode()


def test_all_of_several_images_go_into_an_input_that_takes_several(reader: Reader) -> None:
    offer(reader.page, MIXES)
    reader.page.reload()
    reader.choose("some/mixes")
    drop_all(reader, png(), png())
    expect(reader.page.locator(".media-preview img")).to_have_count(2)


def test_of_several_images_for_an_input_of_one_the_page_says_which_it_took(
    reader: Reader,
) -> None:
    offer(reader.page, CHANGES)
    reader.page.reload()
    reader.choose("some/changes")
    drop_all(reader, png(), png())
    expect(reader.page.get_by_text("One file fits here: 1.png was taken.")).to_be_visible()


def test_of_several_files_that_a_darkroom_made_the_first_is_shown_and_that_is_said(
    reader: Reader,
) -> None:
    drop_all(reader, make_png(), make_png())
    expect(reader.page.get_by_role("dialog", name="What made this file")).to_be_visible()
    expect_said(reader.page, "Of 2 files only the first one is shown: 1.png.")


def test_a_dropped_image_that_the_form_takes_is_in_the_memory_once(reader: Reader) -> None:
    offer(reader.page, CHANGES)
    reader.page.reload()
    reader.choose("some/changes")
    reader.page.evaluate(
        """() => {
            window.made = 0;
            const make = URL.createObjectURL;
            URL.createObjectURL = (content) => (made++, make.call(URL, content));
        }"""
    )
    give(reader, png())
    expect(reader.page.locator(".media-preview img")).to_be_visible()
    assert reader.page.evaluate("made") == 1


def test_without_an_input_in_sight_the_user_chooses_what_takes_it(reader: Reader) -> None:
    offer(reader.page, CHANGES)
    reader.page.reload()
    reader.page.get_by_role("link", name="Gallery").click()
    broken = make_png(prompt="a lake").replace(b'"endpoint":', b'"endpaint":')
    give(reader, broken)
    dialog = reader.page.get_by_role("dialog", name="Use this image as input")
    expect(dialog).to_contain_text("does not say what made it")
    dialog.get_by_role("button", name="Changes").click()
    expect(reader.page.locator(".media-preview img")).to_be_visible()
    expect(reader.page.locator(".media-preview")).to_contain_text("found.png")


def test_a_file_of_a_darkroom_can_be_an_input_too(reader: Reader) -> None:
    offer(reader.page, CHANGES)
    reader.page.reload()
    reader.choose("some/changes")
    give(reader, make_png(), kind="paste")
    dialog = reader.page.get_by_role("dialog", name="What made this file")
    dialog.get_by_role("button", name="Use as input").click()
    expect(reader.page.locator(".media-preview")).to_contain_text("found.png")
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value("some/changes")


def test_a_paste_into_a_field_stays_there(reader: Reader) -> None:
    offer(reader.page, CHANGES)
    reader.page.reload()
    reader.choose("some/changes")
    reader.field("prompt").fill("a hill")
    give(reader, make_png(), '[id^="field-mask_url-"]', "paste")
    expect(reader.page.locator(".field", has_text="Mask").locator(".media-preview")).to_be_visible()
    expect(reader.page.get_by_role("dialog")).to_have_count(0)
    assert list(submit_form(reader, "changes")) == ["prompt", "mask_url"]


def test_text_with_an_image_is_pasted_as_text_into_the_prompt(reader: Reader) -> None:
    script = GIVE.replace("const options", "files.setData('text/plain', 'a hill'); const options")
    content = base64.b64encode(png()).decode()
    place = '[id^="field-prompt-"]'
    arguments = [place, "paste", content, "found.png", "image/png"]
    assert not reader.page.evaluate(script, arguments)  # the browser pastes what it prefers


def test_a_model_that_is_not_served_is_named(reader: Reader) -> None:
    give(reader, make_png(endpoint="house/portraits"))
    dialog = reader.page.get_by_role("dialog")
    expect(dialog).to_contain_text("This Darkroom does not serve house/portraits.")
    expect(dialog.get_by_role("button", name="Use these settings")).to_be_disabled()


def test_without_a_key_nothing_is_read(reader: Reader) -> None:
    reader.page.get_by_role("button", name="API key").click()
    assert not give(reader, make_png())
    expect(reader.page.get_by_role("dialog")).to_have_count(0)
