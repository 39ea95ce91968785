"""Large view of a result, and the comparison of several."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoWriter
from tests.page.album import Entry
from tests.page.axe import axe
from tests.page.darkroom import PageDarkroom
from tests.page.gallery import Gallery
from tests.page.reader import expect_said

SOON = timedelta(minutes=1)
FIRST = Entry("a lighthouse", SOON, input={"guidance_scale": 3.5, "seed": 1})
SECOND = Entry("a harbour", 2 * SOON, files=2, input={"guidance_scale": 5.0})
THIRD = Entry("an orchard", 3 * SOON)


@pytest.fixture
def hung(gallery: Gallery) -> Gallery:
    """Four results of three requests, opened."""
    gallery.darkroom.hang([FIRST, SECOND, THIRD])
    gallery.open()
    expect(gallery.results).to_have_count(4)
    return gallery


def large(gallery: Gallery, words: str) -> Locator:
    return gallery.page.get_by_role("dialog", name=words, exact=True)


def test_a_result_is_shown_large_with_its_facts_and_back_closes_it(hung: Gallery) -> None:
    hung.link("a lighthouse").click()
    shown = large(hung, "a lighthouse")
    expect(shown.get_by_role("img", name="a lighthouse")).to_be_visible()
    expect(shown).to_contain_text("1024 × 1024")
    expect(shown).to_contain_text("Guidance")
    expect(shown).to_contain_text("1 of 4")
    hung.page.go_back()
    expect(hung.page.get_by_role("dialog")).to_have_count(0)
    expect(hung.link("a lighthouse")).to_be_focused()


def test_arrows_go_on_and_escape_returns_to_the_last_one(hung: Gallery) -> None:
    hung.link("a lighthouse").click()
    hung.page.keyboard.press("ArrowRight")
    expect(large(hung, "a harbour (1)")).to_be_visible()
    hung.page.keyboard.press("ArrowRight")
    expect(large(hung, "a harbour (2)")).to_be_visible()
    hung.page.get_by_role("button", name="Previous result").click()
    expect(large(hung, "a harbour (1)")).to_be_visible()
    hung.page.keyboard.press("Escape")
    expect(hung.link("a harbour (1)")).to_be_focused()
    hung.page.go_forward()
    expect(hung.page.get_by_role("dialog")).to_be_visible()


@pytest.mark.long
def test_keys_work_after_the_button_that_has_the_focus_is_gone(hung: Gallery) -> None:
    hung.link("a harbour (2)").click()
    hung.page.get_by_role("button", name="Next result").click()
    expect(hung.page.get_by_role("button", name="Next result")).to_be_hidden()
    hung.page.keyboard.press("ArrowLeft")
    expect(large(hung, "a harbour (2)")).to_be_visible()


@pytest.mark.long
def test_a_link_shows_a_result_large(hung: Gallery) -> None:
    hung.link("an orchard").click()
    address = hung.page.url
    hung.page.goto("about:blank")
    hung.page.goto(address)
    expect(large(hung, "an orchard")).to_be_visible()


@pytest.mark.long
def test_a_link_to_a_result_that_is_gone_says_so(gallery: Gallery) -> None:
    gallery.open("view=gallery&item=0190a000-0000-7000-8000-000000000000.0")
    expect(gallery.page.get_by_text("does not exist any more").last).to_be_visible()
    expect(gallery.page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.long
def test_it_is_zoomed_by_wheel_keys_and_double_click_and_panned(hung: Gallery) -> None:
    hung.link("a lighthouse").click()
    page = hung.page
    image = page.get_by_role("dialog").get_by_role("img")
    box = image.bounding_box()
    assert box is not None

    def width() -> float:
        bounds = image.bounding_box()
        assert bounds is not None
        return bounds["width"]

    page.keyboard.press("+")
    assert width() == pytest.approx(1.5 * box["width"], rel=0.01)
    page.keyboard.press("0")
    assert width() == pytest.approx(box["width"], rel=0.01)
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.wheel(0, -500)
    page.wait_for_function("() => document.querySelector('.is-zoomed') !== null")
    zoomed = image.bounding_box()
    assert zoomed is not None
    assert zoomed["width"] > 1.5 * box["width"]
    page.mouse.down()
    page.mouse.move(box["x"] - 20, box["y"] - 20, steps=3)
    page.mouse.up()
    panned = image.bounding_box()
    assert panned is not None
    assert panned["x"] == pytest.approx(zoomed["x"] - 50, abs=2)
    expect(large(hung, "a lighthouse")).to_be_visible()
    image.dblclick()
    assert width() == pytest.approx(box["width"], rel=0.01)


@pytest.mark.long
def test_a_swipe_goes_to_the_next(hung: Gallery) -> None:
    hung.link("a lighthouse").click()
    page = hung.page
    box = page.locator(".view-box").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y + 5, steps=4)
    page.mouse.up()
    expect(large(hung, "a harbour (1)")).to_be_visible()


@pytest.mark.long
def test_two_fingers_zoom_on_a_phone_and_one_swipes(
    open_context: Callable[..., BrowserContext], idle: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    gallery = Gallery(phone.new_page(), idle)
    idle.hang([FIRST, SECOND])
    gallery.open()
    gallery.link("a lighthouse").tap()
    session = phone.new_cdp_session(gallery.page)

    def touch(kind: str, *points: tuple[int, int]) -> None:
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    image = large(gallery, "a lighthouse").get_by_role("img")
    before = image.bounding_box()
    touch("touchStart", (170, 450))
    touch("touchStart", (170, 450), (220, 450))
    touch("touchMove", (120, 450), (270, 450))
    touch("touchEnd")
    after = image.bounding_box()
    assert before is not None
    assert after is not None
    assert after["width"] == pytest.approx(3 * before["width"], rel=0.1)
    gallery.page.get_by_role("button", name="fit into the window").tap()
    touch("touchStart", (300, 450))
    for x in range(290, 110, -10):
        touch("touchMove", (x, 455))
    gallery.page.wait_for_timeout(300)  # the finger rests: Chromium takes no tap after a fling
    touch("touchEnd")
    expect(large(gallery, "a harbour (1)")).to_be_visible()
    gallery.page.get_by_role("button", name="About this result").tap()
    expect(gallery.page.get_by_role("button", name="Use again")).to_be_visible()
    assert axe(gallery.page) == []
    assert gallery.page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.long
def test_it_is_marked_and_deleted_from_there(hung: Gallery) -> None:
    hung.link("an orchard").click()
    hung.page.keyboard.press("f")
    pressed = hung.page.get_by_role("button", name="♥ Favourite")
    expect(pressed).to_have_attribute("aria-pressed", "true")
    hung.page.keyboard.press("Delete")
    question = hung.page.get_by_role("dialog", name="Delete 1 request?")
    expect(question).to_contain_text("Favourites among them: 1.")
    question.get_by_role("button", name="Delete").click()
    expect(large(hung, "a harbour (2)")).to_be_visible()
    hung.page.keyboard.press("Escape")
    expect(hung.results).to_have_count(3)


@pytest.mark.long
@pytest.mark.parametrize(("button", "seed"), [("Use again", "1"), ("New seed", "")])
def test_it_fills_the_form_to_make_the_same_result_or_one_with_a_new_seed(
    hung: Gallery, button: str, seed: str
) -> None:
    hung.link("a lighthouse").click()
    hung.page.get_by_role("button", name=button).click()
    prompt = hung.page.locator('[id^="field-prompt-"]').first
    expect(prompt).to_have_value("a lighthouse")
    expect(hung.page.locator('input[id^="field-seed-"]').first).to_have_value(seed)
    expect(hung.page.get_by_role("dialog")).to_have_count(0)


@pytest.mark.long
def test_a_variation_is_made_without_leaving_the_gallery(hung: Gallery) -> None:
    hung.darkroom.start_painting()
    hung.link("a lighthouse").click()
    hung.page.get_by_role("button", name="Vary").click()
    expect(hung.page.locator(".toast")).to_contain_text("Submitted.")
    hung.page.keyboard.press("Escape")
    expect(hung.link("a lighthouse")).to_have_count(2)


@pytest.mark.long
def test_a_variation_that_is_refused_says_so_in_front_of_the_large_view(hung: Gallery) -> None:
    words = "The budget of this month is used up."
    hung.page.route("**/queue/**", lambda route: route.fulfill(status=402, json={"detail": words}))
    hung.link("a lighthouse").click()
    hung.page.get_by_role("button", name="Vary").click()
    expect_said(hung.page, words)
    assert axe(hung.page) == []


@pytest.mark.long
def test_what_was_said_of_the_last_result_stays_when_its_large_view_closes(
    gallery: Gallery,
) -> None:
    gallery.darkroom.hang([FIRST])
    gallery.open()
    gallery.link("a lighthouse").click()
    gallery.page.keyboard.press("Delete")
    gallery.page.get_by_role("button", name="Delete", exact=True).last.click()
    expect(gallery.page.get_by_role("dialog")).to_have_count(0)
    expect_said(gallery.page, "Deleted: 1 request.")


@pytest.mark.long
def test_a_deletion_that_fails_is_told_in_front_of_the_large_view(hung: Gallery) -> None:
    hung.page.route("**/v1/requests/delete", lambda route: route.abort())
    hung.link("a lighthouse").click()
    hung.page.keyboard.press("Delete")
    question = hung.page.get_by_role("dialog", name="Delete 1 request?")
    question.get_by_role("button", name="Delete").click()
    expect_said(hung.page, "Deleted: 0 of 1.")


@pytest.mark.long
def test_its_log_is_shown_on_top_of_it(hung: Gallery) -> None:
    hung.link("a lighthouse").click()
    hung.page.get_by_role("button", name="Log and JSON").click()
    details = hung.page.locator("#details")
    expect(details).to_contain_text('"prompt": "a lighthouse"')
    hung.page.keyboard.press("Escape")
    expect(details).to_be_hidden()
    expect(large(hung, "a lighthouse")).to_be_visible()


def tone() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.zeros(8000, np.int16).tobytes())
    return buffer.getvalue()


def video(path: Path) -> bytes:
    with VideoWriter(path, VideoForm("video/webm", 160, 96, Fraction(24), 24)) as writer:
        for number in range(24):
            writer.write(np.full((96, 160, 3), 40 + number, dtype=np.uint8))
    return path.read_bytes()


@pytest.mark.long
def test_videos_play_and_sounds_have_their_waveform(gallery: Gallery, tmp_path: Path) -> None:
    film = Entry("a film", SOON, content=video(tmp_path / "film.webm"), extension="webm")
    gallery.darkroom.hang([film, Entry("a tone", 2 * SOON, content=tone(), extension="wav")])
    gallery.open()
    gallery.link("a film, video").hover()
    expect(gallery.result("a film, video").locator("video")).to_be_attached()
    gallery.link("a film, video").click()
    player = large(gallery, "a film").locator("video")
    player.evaluate(
        "video => video.currentTime > 0 || new Promise(\
            (resolve) => video.addEventListener('timeupdate', resolve, { once: true }))"
    )
    expect(gallery.page.get_by_role("group", name="Zoom")).to_be_hidden()
    gallery.page.keyboard.press("ArrowRight")
    sound = large(gallery, "a tone")
    expect(sound.locator("audio")).to_be_visible()
    sound.locator("img.wave").evaluate("image => image.decode()")


# Comparison.


def select(gallery: Gallery, *prompts: str) -> None:
    for prompt in prompts:
        gallery.page.get_by_role("checkbox", name=f"Select {prompt}", exact=True).click()


def test_results_are_compared_with_the_same_zoom_and_what_differs(hung: Gallery) -> None:
    select(hung, "a lighthouse", "a harbour (1)")
    hung.page.get_by_role("button", name="Compare").click()
    shown = hung.page.get_by_role("dialog", name="Comparison")
    images = shown.get_by_role("img")
    expect(images).to_have_count(2)
    expect(shown).to_contain_text("Guidance")
    expect(shown).not_to_contain_text("Number of inference steps")
    hung.page.keyboard.press("+")
    scales = "each => each.style.transform.match(/scale\\((.*)\\)/)[1]"
    assert [image.evaluate(scales) for image in images.all()] == ["1.5", "1.5"]
    hung.page.go_back()
    expect(shown).to_have_count(0)
    expect(hung.selected_tiles).to_have_count(2)
    hung.page.go_forward()
    expect(images).to_have_count(2)


@pytest.mark.long
def test_two_are_compared_by_a_slider_with_the_keyboard(hung: Gallery) -> None:
    select(hung, "a lighthouse", "an orchard")
    hung.page.get_by_role("button", name="Compare").click()
    hung.page.get_by_role("button", name="Slider").click()
    slider = hung.page.get_by_role("slider")
    expect(slider).to_be_focused()
    hung.page.keyboard.press("Home")
    over = hung.page.locator(".pair img").nth(1)
    assert over.evaluate("each => each.style.clipPath") == "inset(0px 100% 0px 0px)"
    hung.page.keyboard.press("End")
    assert over.evaluate("each => each.style.clipPath") == "inset(0px 0% 0px 0px)"


@pytest.mark.long
def test_a_slider_shows_images_of_different_shapes_whole(gallery: Gallery) -> None:
    gallery.darkroom.hang([Entry("first", SOON), Entry("second", 2 * SOON)])
    gallery.open()
    select(gallery, "first", "second")
    gallery.page.get_by_role("button", name="Compare").click()
    gallery.page.get_by_role("button", name="Slider").click()
    images = gallery.page.locator(".pair img")
    expect(images).to_have_count(2)
    shape = "each => each.decode().then(() => each.naturalWidth / each.naturalHeight)"
    shapes = [image.evaluate(shape) for image in images.all()]
    assert abs(shapes[0] - shapes[1]) > 0.1
    fit = "each => getComputedStyle(each).objectFit"
    assert [image.evaluate(fit) for image in images.all()] == ["contain", "contain"]
    gallery.page.get_by_role("slider").fill("30")  # neither is seen beside the other
    clip = "each => each.style.clipPath"
    right, left = (image.evaluate(clip) for image in images.all())
    assert (right, left) == ("inset(0px 0px 0px 30%)", "inset(0px 70% 0px 0px)")


@pytest.mark.long
def test_two_to_four_can_be_compared(hung: Gallery) -> None:
    select(hung, "a lighthouse")
    expect(hung.page.get_by_role("button", name="Compare")).to_be_disabled()
    hung.page.keyboard.press("Control+a")
    expect(hung.page.get_by_role("button", name="Compare")).to_be_enabled()
