"""Masks that are painted, and images that are cropped or extended, in the form."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.page.painter import image
from tests.page.reader import Reader
from tests.page.test_operator import HIDE
from tests.page.test_reuse import IMAGE, endpoint, offer, submit_form

pytestmark = pytest.mark.long

SIZE = {
    "default": {"width": 256, "height": 256},
    "anyOf": [
        {
            "type": "object",
            "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
        },
    ],
}
PAINTS = endpoint("paints", "image-to-image", image_url=IMAGE, mask_url=IMAGE, image_size=SIZE)
CROPS = endpoint("crops", "image-to-image", image_url=IMAGE, image_size=SIZE)
LIST = {"type": "array", "items": {"type": "string"}}
MIXES = endpoint("mixes", "image-to-image", image_urls=LIST)
HELP = "What you paint is redrawn."


@pytest.fixture
def painter(reader: Reader, tmp_path: Path) -> Reader:
    """User of a model with a mask, who has chosen an image of 300 × 200 pixels."""
    offer(reader.page, PAINTS, CROPS, MIXES)
    reader.page.reload()
    reader.choose("some/paints")
    reader.field("prompt").fill("a hill")
    (tmp_path / "hill.png").write_bytes(image(300, 200, 1, "image/png"))
    reader.page.get_by_label("Image: choose a file").set_input_files(tmp_path / "hill.png")
    expect(reader.page.locator(".media-preview img")).to_be_visible()
    return reader


def open_dialog(reader: Reader, words: str = "Paint a mask") -> Locator:
    reader.page.get_by_role("button", name=words, exact=True).click()
    dialog = reader.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    return dialog


def picture(url: Any) -> Image.Image:
    assert url.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def box(node: Locator) -> dict[str, float]:
    bounds = node.bounding_box()
    assert bounds is not None
    return {
        "x": bounds["x"],
        "y": bounds["y"],
        "width": bounds["width"],
        "height": bounds["height"],
    }


def stroke(reader: Reader, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw with the mouse; places are parts of the image."""
    at = box(reader.page.locator(".paint"))
    mouse = reader.page.mouse
    mouse.move(at["x"] + at["width"] * start[0], at["y"] + at["height"] * start[1])
    mouse.down()
    mouse.move(at["x"] + at["width"] * end[0], at["y"] + at["height"] * end[1], steps=5)
    mouse.up()


def test_what_is_painted_is_white_in_a_mask_of_the_size_of_the_image(painter: Reader) -> None:
    dialog = open_dialog(painter)
    stroke(painter, (0.1, 0.5), (0.4, 0.5))
    dialog.get_by_role("button", name="Use mask").click()
    expect(dialog).to_be_hidden()
    expect(painter.page.get_by_text("mask.png")).to_be_visible()
    mask = picture(submit_form(painter, "paints")["mask_url"])
    assert mask.size == (300, 200)
    assert mask.convert("RGB").getpixel((75, 100)) == (255, 255, 255)
    assert mask.convert("RGB").getpixel((220, 100)) == (0, 0, 0)


def test_strokes_are_erased_undone_redone_inverted_and_cleared(painter: Reader) -> None:
    dialog = open_dialog(painter)
    use = dialog.get_by_role("button", name="Use mask")

    def white() -> list[bool]:
        """Whether the mask is white at its left, its middle, and its right."""
        use.click()
        mask = picture(submit_form(painter, "paints")["mask_url"]).convert("L")
        open_dialog(painter, "Edit")
        return [mask.getpixel((at, 100)) == 255 for at in (30, 150, 270)]

    def press(name: str) -> None:
        dialog.get_by_role("button", name=name).click()

    stroke(painter, (0.1, 0.5), (0.9, 0.5))
    assert white() == [True, True, True]
    press("Eraser")
    stroke(painter, (0.5, 0.5), (0.9, 0.5))
    assert white() == [True, False, False]
    press("Invert")
    press("Undo")
    press("Redo")
    assert white() == [False, True, True]
    press("Clear")
    use.click()
    expect(dialog).to_contain_text("Nothing is painted yet.")
    painter.page.keyboard.press("Control+z")
    assert white() == [False, True, True]


def test_a_mask_is_painted_by_keyboard_alone(painter: Reader) -> None:
    dialog = open_dialog(painter)
    expect(dialog.get_by_role("application")).to_be_focused()
    keys = painter.page.keyboard
    keys.press("]")
    keys.down(" ")
    for _ in range(4):
        keys.press("ArrowRight")
    keys.up(" ")
    keys.press("Enter")
    expect(dialog).to_be_hidden()
    mask = picture(submit_form(painter, "paints")["mask_url"]).convert("L")
    assert [mask.getpixel((at, 100)) for at in (20, 150)] == [0, 255]


def test_escape_asks_before_it_loses_what_was_painted(painter: Reader) -> None:
    dialog = open_dialog(painter)
    stroke(painter, (0.1, 0.5), (0.4, 0.5))
    painter.page.keyboard.press("Escape")
    expect(dialog).to_contain_text("Press Escape again to discard this mask")
    painter.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert "mask_url" not in submit_form(painter, "paints")
    open_dialog(painter)
    painter.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def press_cancel(page: Page) -> None:
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()


def press_close(page: Page) -> None:
    page.get_by_role("dialog").get_by_role("button", name="Close").click()


WAYS: Any = pytest.mark.parametrize("leave", [Page.go_back, press_cancel, press_close])


@WAYS
def test_each_way_out_asks_before_it_loses_what_was_painted(
    painter: Reader, leave: Callable[[Page], object]
) -> None:
    page = painter.page
    before = page.url
    dialog = open_dialog(painter)
    stroke(painter, (0.1, 0.5), (0.4, 0.5))
    leave(page)
    expect(dialog).to_contain_text("again to discard this mask")
    dialog.get_by_role("button", name="Use mask").click()
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(before)
    assert (
        picture(submit_form(painter, "paints")["mask_url"]).convert("L").getpixel((75, 100)) == 255
    )
    page.get_by_role("button", name="Remove mask.png").click()
    open_dialog(painter)
    stroke(painter, (0.1, 0.5), (0.4, 0.5))
    leave(page)
    expect(dialog).to_contain_text("again to discard this mask")
    leave(page)
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(before)
    assert "mask_url" not in submit_form(painter, "paints")


def test_back_leaves_a_mask_without_paint_and_forward_does_not_open_it(painter: Reader) -> None:
    page = painter.page
    before = page.url
    dialog = open_dialog(painter)
    page.go_back()
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(before)
    page.go_forward()
    expect(page).to_have_url(before)
    expect(dialog).to_be_hidden()
    expect(page.get_by_label("Model", exact=True)).to_have_value("some/paints")


def test_back_asks_before_it_loses_a_frame(painter: Reader) -> None:
    dialog = open_dialog(painter, "Crop")
    dialog.get_by_label("Zoom", exact=True).fill("2")
    painter.page.go_back()
    expect(dialog).to_contain_text("Go back again to discard this frame")
    dialog.get_by_role("button", name="Use image").click()
    assert picture(submit_form(painter, "paints")["image_url"]).size == (256, 256)


def test_what_was_painted_comes_back_after_a_sign_in(painter: Reader) -> None:
    page = painter.page
    dialog = open_dialog(painter)
    stroke(painter, (0.1, 0.5), (0.4, 0.5))
    calls = "**/v1/**"
    page.route(calls, lambda route: route.fulfill(status=401, json={"detail": "No."}))
    for hidden in (True, False):  # a page that is seen again opens its stream anew
        page.evaluate(HIDE, hidden)
    expect(page.get_by_text("The key is no longer valid.")).to_be_visible()
    expect(dialog).to_be_hidden()
    page.unroute(calls)
    painter.give_key(painter.darkroom.key)
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Use mask").click()
    assert (
        picture(submit_form(painter, "paints")["mask_url"]).convert("L").getpixel((75, 100)) == 255
    )


def test_a_soft_edge_is_grey(painter: Reader) -> None:
    dialog = open_dialog(painter)
    dialog.get_by_label("Soft edge").fill("10")
    stroke(painter, (0.3, 0.5), (0.7, 0.5))
    dialog.get_by_role("button", name="Use mask").click()
    mask = picture(submit_form(painter, "paints")["mask_url"]).convert("L")
    assert any(0 < mask.getpixel((150, at)) < 255 for at in range(100, 200))  # type: ignore[operator]


def test_two_fingers_zoom_and_paint_nothing(painter: Reader) -> None:
    dialog = open_dialog(painter)
    before = box(painter.page.locator(".paint"))["width"]
    painter.page.locator(".easel").evaluate(
        """(easel) => {
            const box = easel.getBoundingClientRect();
            const send = (name, id, x) => easel.dispatchEvent(new PointerEvent(name, {
                pointerId: id, pointerType: "touch", clientX: box.left + box.width / 2 + x,
                clientY: box.top + box.height / 2, pressure: 0.5, bubbles: true,
            }));
            send("pointerdown", 5, -20);
            send("pointerdown", 6, 20);
            send("pointermove", 6, 60);
            send("pointerup", 5, -20);
            send("pointerup", 6, 60);
        }"""
    )
    assert box(painter.page.locator(".paint"))["width"] > before * 1.5
    expect(dialog.get_by_role("button", name="Undo")).to_be_disabled()
    dialog.get_by_role("button", name="Fit").click()
    assert box(painter.page.locator(".paint"))["width"] == before
    dialog.get_by_role("button", name="Use mask").click()
    expect(dialog).to_contain_text("Nothing is painted yet.")


def test_a_tap_of_one_finger_paints_a_dot(painter: Reader) -> None:
    dialog = open_dialog(painter)
    painter.page.locator(".easel").evaluate(
        """(easel) => {
            const box = document.querySelector(".paint").getBoundingClientRect();
            for (const name of ["pointerdown", "pointerup"])
                easel.dispatchEvent(new PointerEvent(name, {
                    pointerId: 5, pointerType: "touch", pressure: 0.5, bubbles: true,
                    clientX: box.left + box.width / 4, clientY: box.top + box.height / 2,
                }));
        }"""
    )
    dialog.get_by_role("button", name="Use mask").click()
    mask = picture(submit_form(painter, "paints")["mask_url"]).convert("L")
    assert [mask.getpixel((at, 100)) for at in (75, 225)] == [255, 0]


def test_keys_that_change_the_mask_wait_for_the_end_of_a_stroke(painter: Reader) -> None:
    dialog = open_dialog(painter)
    stroke(painter, (0.1, 0.2), (0.9, 0.2))
    at = box(painter.page.locator(".paint"))
    mouse = painter.page.mouse
    mouse.move(at["x"] + at["width"] * 0.1, at["y"] + at["height"] * 0.8)
    mouse.down()
    for key in ("Control+z", "i", "Control+Shift+z"):
        painter.page.keyboard.press(key)
        mouse.move(at["x"] + at["width"] * 0.9, at["y"] + at["height"] * 0.8, steps=2)
    mouse.up()
    dialog.get_by_role("button", name="Use mask").click()
    mask = picture(submit_form(painter, "paints")["mask_url"]).convert("L")
    assert [mask.getpixel((150, y)) for y in (40, 100, 160)] == [255, 0, 255]


def test_a_mask_without_an_image_says_what_is_missing(painter: Reader) -> None:
    painter.page.get_by_role("button", name="Remove hill.png").click()
    expect(open_dialog(painter)).to_contain_text("Choose the image first")
    painter.page.keyboard.press("Escape")
    painter.field("image_url").fill("https://example.org/hill.png")
    expect(open_dialog(painter)).to_contain_text("another server has it")


def test_an_image_is_cropped_to_the_size_in_the_form(painter: Reader) -> None:
    painter.choose("some/crops")
    dialog = open_dialog(painter, "Crop")
    expect(dialog).to_contain_text("256 × 256 pixels")
    dialog.get_by_role("button", name="Use image").click()
    assert picture(submit_form(painter, "crops")["image_url"]).size == (256, 256)


def test_one_image_of_several_is_cropped_at_its_place(painter: Reader, tmp_path: Path) -> None:
    painter.choose("some/mixes")
    painter.field("prompt").fill("a hill")
    names = ("one.png", "two.png", "three.png")
    for seed, name in enumerate(names):
        (tmp_path / name).write_bytes(image(300, 200, seed, "image/png"))
    chooser = painter.page.get_by_label("Image: choose files")
    chooser.set_input_files([tmp_path / name for name in names])
    expect(painter.page.locator(".media-preview img")).to_have_count(3)
    dialog = open_dialog(painter, "Crop two.png")
    dialog.get_by_label("Zoom", exact=True).fill("2")
    dialog.get_by_role("button", name="Use image").click()
    expect(painter.page.locator(".media-preview img")).to_have_count(3)
    sent = submit_form(painter, "mixes")["image_urls"]
    assert [picture(url).size for url in sent] == [(300, 200), (150, 100), (300, 200)]
    assert picture(sent[2]).tobytes() == Image.open(tmp_path / "three.png").tobytes()


def test_a_frame_of_a_ratio_keeps_the_pixels_of_the_image(painter: Reader) -> None:
    dialog = open_dialog(painter, "Crop")
    dialog.get_by_label("Frame", exact=True).select_option("As the image")
    zoom = dialog.get_by_label("Zoom", exact=True)
    for value, words in (("1", "300 × 200"), ("0.5", "600 × 400"), ("2", "150 × 100")):
        zoom.fill(value)
        expect(dialog).to_contain_text(f"{words} pixels")
    dialog.get_by_role("button", name="Use image").click()
    sent = submit_form(painter, "paints")
    assert picture(sent["image_url"]).size == (150, 100)
    assert "mask_url" not in sent


def test_a_pen_paints_as_wide_as_it_is_pressed(painter: Reader) -> None:
    dialog = open_dialog(painter)
    painter.page.locator(".easel").evaluate(
        """(easel) => {
            const box = document.querySelector(".paint").getBoundingClientRect();
            const draw = (part, pressure) => {
                for (const [name, x] of [["down", 0.2], ["move", 0.8], ["up", 0.8]])
                    easel.dispatchEvent(new PointerEvent(`pointer${name}`, {
                        pointerId: 7, pointerType: "pen", pressure, bubbles: true,
                        clientX: box.left + box.width * x, clientY: box.top + box.height * part,
                    }));
            };
            draw(0.25, 0.1);
            draw(0.75, 1);
        }"""
    )
    dialog.get_by_role("button", name="Use mask").click()
    mask = picture(submit_form(painter, "paints")["mask_url"]).convert("L")
    light, strong = (
        sum(mask.getpixel((150, at)) == 255 for at in part)
        for part in (range(100), range(100, 200))
    )
    assert 0 < light < strong / 2


def test_an_image_is_extended_with_a_mask_of_what_is_new(painter: Reader) -> None:
    dialog = open_dialog(painter, "Crop")
    dialog.get_by_label("Zoom", exact=True).fill("0.5")
    expect(dialog).to_contain_text("What is blurred is drawn new.")
    dialog.get_by_role("button", name="Use image").click()
    expect(painter.page.get_by_text("mask.png")).to_be_visible()
    sent = submit_form(painter, "paints")
    assert picture(sent["image_url"]).size == (256, 256)
    mask = picture(sent["mask_url"]).convert("L")
    assert mask.size == (256, 256)
    assert [mask.getpixel(at) for at in ((128, 128), (128, 20), (20, 128))] == [0, 255, 255]
