"""Accessibility and security of the page."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.page.album import entries
from tests.page.axe import axe, look
from tests.page.darkroom import PageDarkroom
from tests.page.reader import PROBE, Reader, expect_images, expect_phase

OpenContext = Callable[..., BrowserContext]

SCRIPT = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture
def newcomer(open_context: OpenContext, installation: PageDarkroom) -> Reader:
    """Has neither opened the page nor given a key."""
    return Reader(open_context().new_page(), installation)


def test_every_text_can_be_read_and_every_control_has_a_name(newcomer: Reader) -> None:
    page = newcomer.page
    page.goto(newcomer.darkroom.url)
    newcomer.give_key(f"dk_0123:{'0' * 64}")
    expect(page.get_by_role("alert")).to_be_visible()
    look(page)
    newcomer.enter()
    look(page)
    expect_images(newcomer.generate("a hill"), 1)
    expect_phase(newcomer.generate("this will fail"), "failed")
    expect_phase(newcomer.generate("a slow hill"), "running")
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Generate").click()
    newcomer.field("prompt").fill("")
    page.get_by_role("button", name="Generate").click()
    expect(newcomer.problem_of("prompt")).to_be_visible()
    look(page)
    page.locator("#shortcuts-button").click()
    look(page)
    page.keyboard.press("Escape")
    page.locator("#code-button").click()
    expect(page.get_by_role("dialog", name="This request as code")).to_be_visible()
    look(page)
    page.get_by_role("button", name="JSON", exact=True).click()
    look(page)
    page.keyboard.press("Escape")
    newcomer.request_rows.last.locator(".request").click()
    expect(page.get_by_role("dialog")).to_contain_text("Log")
    look(page)


@pytest.mark.long
def test_the_gallery_can_be_read_and_its_controls_have_names(newcomer: Reader) -> None:
    page = newcomer.page
    newcomer.darkroom.hang(entries(60))
    newcomer.enter()
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator(".tile.shown").first).to_be_visible()
    page.locator(".tile .check").first.check()
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_text("2 selected")).to_be_visible()
    look(page)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".compared dl").first).to_be_visible()
    look(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Delete")
    expect(page.get_by_role("dialog", name="Delete")).to_be_visible()
    look(page)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.locator(".tile a").first.click()
    expect(page.locator(".panel").get_by_role("button", name="Vary")).to_be_enabled()
    look(page)
    page.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Make a link").click()
    expect(page.get_by_role("button", name="Revoke")).to_be_visible()
    look(page)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    open_context: OpenContext, installation: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 360, "height": 740}, has_touch=True)
    reader = Reader(phone.new_page(), installation)
    wide = "() => document.documentElement.scrollWidth"
    reader.page.goto(installation.url)
    assert reader.page.evaluate(wide) == 360
    assert axe(reader.page) == []
    reader.enter()
    reader.unfold()
    expect_images(reader.generate("a" * 300, num_images=4), 4)
    expect_phase(reader.generate("this will fail"), "failed")
    assert reader.page.evaluate(wide) == 360
    assert axe(reader.page) == []
    reader.request_rows.first.locator(".request").click()
    dialog = reader.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Log")
    assert axe(reader.page) == []
    assert dialog.bounding_box()["width"] <= 360  # type: ignore[index]


def test_the_keyboard_reaches_everything_in_order(reader: Reader) -> None:
    page = reader.page
    page.reload()
    expect(reader.field("prompt")).to_be_visible()
    met: list[str] = []
    for _ in range(28):
        page.keyboard.press("Tab")
        met.append(page.evaluate("() => document.activeElement.id.replace(/-\\d+$/, '')"))
    expected = [
        "theme-button",
        "key-button",
        "model",
        "field-prompt",
        "field-image_size",
        "field-num_images",
    ]
    places = [met.index(stop) for stop in [*expected, "generate", "code-button"]]
    assert places == sorted(places)


def test_escape_closes_what_is_open_and_gives_the_focus_back(reader: Reader) -> None:
    page = reader.page
    page.locator("#code-button").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#code-button")).to_be_focused()


@pytest.mark.long
def test_the_end_of_a_request_is_announced(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    expect(reader.page.locator("#announcer")).to_have_text("Finished: a hill")


def test_text_never_becomes_markup(reader: Reader) -> None:
    expect_images(reader.generate(SCRIPT), 1)
    reader.choose(PROBE)
    box = reader.page.get_by_label("Input", exact=True)
    orders = {"fail": "pipeline_failed", "message": SCRIPT, "prompt": SCRIPT}
    box.fill(json.dumps(orders))
    reader.page.get_by_role("button", name="Generate").click()
    expect_phase(reader.sheets.first, "failed")
    expect(reader.sheets.first).to_contain_text(SCRIPT)
    reader.request_rows.first.locator(".request").click()
    expect(reader.page.get_by_role("dialog")).to_contain_text("Log")
    assert reader.page.title() == "Darkroom"
    assert reader.page.locator("img[src='x']").count() == 0


@pytest.mark.long
@pytest.mark.parametrize("url", ["javascript:document.title='broken'", "file:///etc/passwd"])
def test_an_address_in_an_output_that_is_no_file_s_is_no_link(reader: Reader, url: str) -> None:
    reader.choose(PROBE)
    reader.page.get_by_label("Input", exact=True).fill(json.dumps({"echo": {"url": url}}))
    reader.page.get_by_role("button", name="Generate").click()
    expect_phase(reader.sheets.first, "succeeded")
    assert reader.sheets.first.locator("a").count() == 0
    expect(reader.sheets.first.locator("pre")).to_contain_text(url.split(":", maxsplit=1)[0])


def test_nothing_is_asked_of_anybody_else(page: Page, installation: PageDarkroom) -> None:
    urls: set[str] = set()
    page.on("request", lambda request: urls.add(request.url))
    reader = Reader(page, installation)
    reader.enter()
    expect_images(reader.generate("a hill"), 1)
    assert len(urls) > 10
    # A preview is fetched with the key and shown as a blob of the page.
    own = (installation.url, f"blob:{installation.url}")
    assert {url for url in urls if not url.startswith(own)} == set()
