"""Sizes and places of what the page shows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import Reader, expect_images, expect_phase
from tests.page.test_form import DOCUMENT, model
from tests.page.test_requests import submit

pytestmark = pytest.mark.long

OpenContext = Callable[..., BrowserContext]
SMALL = 44  # CSS pixels: the least of a target for fingers


def box(element: Locator) -> dict[str, float]:
    size = element.bounding_box()
    assert size is not None
    return {**size, "right": size["x"] + size["width"], "bottom": size["y"] + size["height"]}


def test_generate_is_in_sight_under_a_form_of_any_length(page: Page, idle: PageDarkroom) -> None:
    page.set_viewport_size({"width": 1440, "height": 700})
    page.route("**/v1/models*", lambda route: route.fulfill(json={"models": [model(DOCUMENT)]}))
    reader = Reader(page, idle)
    reader.enter("some/model")
    reader.unfold()
    inputs = page.locator("#inputs")
    assert inputs.evaluate("each => each.scrollHeight > each.clientHeight")
    assert box(page.get_by_role("button", name="Generate"))["bottom"] <= 700
    assert box(inputs)["bottom"] <= box(page.locator("#send"))["y"]


def test_generate_is_in_sight_on_a_phone(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 390, "height": 600}, has_touch=True, is_mobile=True)
    reader = Reader(phone.new_page(), installation)
    reader.enter()
    reader.unfold()
    reader.page.evaluate("scrollTo(0, 200)")
    assert box(reader.page.get_by_role("button", name="Generate"))["bottom"] <= 600


def test_targets_for_fingers_are_large(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    reader = Reader(phone.new_page(), installation)
    reader.enter()
    expect_images(reader.generate("a hill"), 1)
    expect(reader.request_rows).to_have_count(1)
    small = reader.page.evaluate(
        """least => [...document.querySelectorAll("button, summary, select, .action")]
            .filter((each) => each.checkVisibility())
            .filter((each) => each.getBoundingClientRect().height < least)
            .map((each) => each.textContent)""",
        SMALL,
    )
    assert small == []


def test_a_phone_without_contact_says_so_and_does_not_scroll_sideways(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    reader = Reader(phone.new_page(), installation)
    reader.enter()
    installation.stop_http()
    expect(reader.page.locator("#connection")).to_be_in_viewport()
    assert reader.page.evaluate("document.documentElement.scrollWidth") == 360


def test_four_images_stand_two_by_two(reader: Reader) -> None:
    sheet = reader.generate("four hills", num_images=4)
    expect_images(sheet, 4)
    boxes = [box(image) for image in sheet.locator("img").all()]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"] == boxes[3]["y"]
    assert boxes[0]["x"] == boxes[2]["x"] < boxes[1]["x"] == boxes[3]["x"]


@pytest.mark.parametrize("size", ["portrait_16_9", "square", "landscape_4_3"])
def test_a_result_takes_the_place_that_was_kept_for_it(waiting: Reader, size: str) -> None:
    waiting.field("image_size").select_option(size)
    sheet = waiting.generate("a hill")
    kept = box(sheet.locator(".developing"))
    waiting.darkroom.start_painting()
    expect_images(sheet, 1)
    image_box = box(sheet.locator("img"))
    assert image_box["width"] == pytest.approx(kept["width"], abs=1.5)
    assert image_box["height"] == pytest.approx(kept["height"], abs=1.5)


def test_a_result_keeps_its_place_while_its_file_is_loaded(reader: Reader) -> None:
    page = reader.page
    expect_images(reader.generate("a hill"), 1)
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    page.route("**/files/**", hold)
    page.reload(wait_until="commit")
    image = reader.sheets.first.locator("img")
    expect(image).to_be_attached()
    kept = box(image)
    assert kept["width"] == pytest.approx(kept["height"] * 4 / 3, abs=1.5)
    assert kept["width"] > 300
    for paused in routes:
        paused.continue_()
    page.unroute("**/files/**")
    expect_images(reader.sheets.first, 1)
    assert box(image) == pytest.approx(kept, abs=1.5)


def test_a_new_result_comes_into_sight(waiting: Reader) -> None:
    page = waiting.page
    page.emulate_media(reduced_motion="reduce")
    for number in range(20):
        submit(waiting, "test/probe", prompt=f"number {number}")
    page.set_viewport_size({"width": 1000, "height": 500})
    page.get_by_role("button", name="Show older requests").click()
    expect(waiting.request_rows).to_have_count(20)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.evaluate("scrollY") > 300
    waiting.field("prompt").fill("a hill")
    waiting.field("prompt").press("Control+Enter")
    expect_phase(waiting.sheets.first, "queued")
    expect(waiting.sheets.first.locator(".developing")).to_be_in_viewport()


def test_the_header_stays_in_sight(reader: Reader) -> None:
    reader.page.set_viewport_size({"width": 1000, "height": 400})
    expect_images(reader.generate("a hill"), 1)
    reader.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert reader.page.evaluate("scrollY") > 100
    assert box(reader.page.locator("header"))["y"] == 0


def background(page: Page) -> Any:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_theme_is_the_system_s_until_it_is_chosen(
    open_context: OpenContext, installation: PageDarkroom, scheme: str
) -> None:
    context = open_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(installation.url)
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    other = "light" if scheme == "dark" else "dark"
    expect(page.locator("#theme-button")).to_have_attribute("aria-label", f"Use the {other} theme")
    page.locator("#theme-button").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", other)


def test_the_theme_is_switched_and_remembered(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    page = open_context(color_scheme="dark").new_page()
    page.goto(installation.url)
    dark = background(page)
    assert sum(int(channel) for channel in dark[4:-1].split(", ")) < 100
    page.get_by_role("button", name="Use the light theme").click()
    light = background(page)
    assert sum(int(channel) for channel in light[4:-1].split(", ")) > 600
    page.reload()
    assert background(page) == light
    page.get_by_role("button", name="Use the dark theme").click()
    assert background(page) == dark


def test_the_list_of_requests_is_one_tab_stop_in_which_arrows_move(reader: Reader) -> None:
    for number in range(4):
        submit(reader, "test/probe", prompt=f"number {number}")
    expect(reader.request_rows).to_have_count(4)
    expect(reader.page.locator("#requests [data-state=succeeded]")).to_have_count(4)
    rows = reader.request_rows.locator(".request")
    reader.page.locator("body").press("r")
    expect(rows.first).to_be_focused()
    for key, at in (("ArrowDown", 1), ("End", 3), ("ArrowUp", 2), ("Home", 0)):
        reader.page.keyboard.press(key)
        expect(rows.nth(at)).to_be_focused()
    stops = rows.evaluate_all("rows => rows.filter((row) => row.tabIndex === 0).length")
    assert stops == 1


def test_keys_lead_to_the_prompt_and_to_the_list_of_keys(reader: Reader) -> None:
    reader.page.locator("body").press("/")
    expect(reader.field("prompt")).to_be_focused()
    reader.page.keyboard.type("/?")
    expect(reader.field("prompt")).to_have_value("/?")
    reader.page.locator("#theme-button").focus()
    reader.page.keyboard.press("?")
    expect(reader.page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")


def test_requests_stand_under_their_days(reader: Reader) -> None:
    submit(reader, "test/probe", prompt="one of today")
    expect(reader.page.locator("#requests li").first).to_have_text("Today")
    names = reader.page.evaluate(
        """async () => {
            const { day } = await import("/page/interface/words.js");
            const now = new Date(2026, 10, 23, 0, 30);
            const at = [[2026, 10, 23], [2026, 10, 22, 23, 59], [2026, 10, 21], [2025, 10, 23]];
            return at.map((each) => day(new Date(...each).toISOString(), now));
        }"""
    )
    assert names[:2] == ["Today", "Yesterday"]
    assert len(set(names)) == 4
    assert "2025" not in names[2]
    assert "2025" in names[3]
    for name, other in pairwise(names):
        assert name != other


SHAPES: list[tuple[list[Any], list[int]]] = [
    ([{}, {"aspect_ratio": "9:16"}, "video"], [9, 16]),
    ([{"aspect_ratio": "1:1"}, {"aspect_ratio": "16:9"}, "video"], [1, 1]),
    ([{}, {}, "video"], [16, 9]),
    ([{"image_url": "x"}, {}, "video", [640, 480]], [640, 480]),
    ([{}, {}, "audio"], [4, 1]),
    ([{"image_size": {"width": 512, "height": 256}}, {}, "image"], [512, 256]),
]
"""Arguments of ``aspectOf``, and the sides that it should return."""


def test_the_place_of_a_video_and_of_audio_has_their_shape_beforehand(
    page: Page, idle: PageDarkroom
) -> None:
    page.goto(idle.url)
    script = """async (all) => {
        const { aspectOf } = await import("/page/results/aspect.js");
        return all.map((given) => aspectOf(...given));
    }"""
    arguments, sides = zip(*SHAPES, strict=True)
    assert page.evaluate(script, arguments) == [*sides]


def test_what_runs_has_the_colour_of_the_safelight_and_not_of_an_error(reader: Reader) -> None:
    colours = reader.page.evaluate(
        """() => ["running", "failed"].map((state) => {
            const dot = document.createElement("span");
            dot.className = `dot ${state}`;
            document.body.append(dot);
            return getComputedStyle(dot).backgroundColor;
        })"""
    )
    assert colours == ["rgb(242, 179, 102)", "rgb(255, 149, 131)"]  # --accent, --bad
