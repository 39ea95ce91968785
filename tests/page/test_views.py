"""Views of the page that are loaded when they are first opened."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import FLUX, Reader, expect_images


def test_the_gallery_is_loaded_when_it_is_opened_and_back_returns_to_the_form(
    reader: Reader,
) -> None:
    expect_images(reader.generate("a hill"), 1)
    fetched: list[str] = []
    reader.page.on("request", lambda sent: fetched.append(sent.url))
    reader.page.get_by_role("link", name="Gallery").click()
    expect(reader.page.get_by_role("heading", name="Gallery")).to_be_visible()
    expect(reader.page.get_by_role("link", name="a hill")).to_be_visible()
    expect(reader.page.get_by_role("button", name="Generate")).to_be_hidden()
    assert any(url.endswith("gallery.bundle.js") for url in fetched)
    assert not any(url.endswith("/element.js") for url in fetched)
    reader.page.go_back()
    expect(reader.page.get_by_role("button", name="Generate")).to_be_visible()
    expect(reader.sheets).to_have_count(1)


def test_a_view_that_could_not_be_loaded_can_be_tried_again(reader: Reader) -> None:
    reader.page.route("**/gallery.css", lambda route: route.abort())
    reader.page.get_by_role("link", name="Gallery").click()
    again = reader.page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    reader.page.unroute_all()
    again.click()
    expect(reader.page.get_by_role("heading", name="Gallery")).to_be_visible()


@pytest.mark.long
def test_a_view_that_could_not_be_loaded_is_not_seen_beside_others(reader: Reader) -> None:
    page = reader.page
    page.route("**/gallery.css", lambda route: route.abort())
    page.get_by_role("link", name="Gallery").click()
    failed = page.get_by_text("This part of the page could not be loaded.")
    expect(failed).to_be_visible()
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("heading", name="Models")).to_be_visible()
    expect(failed).to_have_count(0)
    page.get_by_role("link", name="Gallery").click()
    expect(failed).to_have_count(1)
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget this key").click()
    expect(failed).to_have_count(0)
    page.unroute_all()
    reader.give_key(reader.darkroom.key)
    expect(page.get_by_role("heading", name="Gallery")).to_be_visible()
    expect(page.locator("#views > main")).to_have_count(1)


def update(reader: Reader) -> None:
    """Let Darkroom answer as another version does from now on: it has no file of this page's."""
    reader.page.route("**/page/**", lambda route: route.fulfill(status=404, json={}))


def reload(reader: Reader, place: Locator) -> None:
    reader.page.unroute_all()
    with reader.page.expect_navigation():
        place.get_by_role("button", name="Reload").click()


@pytest.mark.long
def test_a_view_that_an_updated_darkroom_does_not_have_offers_to_reload_the_page(
    reader: Reader,
) -> None:
    update(reader)
    reader.page.evaluate("location.hash = 'view=models'")
    view = reader.page.locator("main.models")
    expect(view).to_contain_text("Darkroom was updated. Reload the page.")
    expect(view.get_by_role("button", name="Try again")).to_have_count(0)
    reload(reader, view)
    expect(view.get_by_role("heading", name="Models")).to_be_visible()


@pytest.mark.long
def test_a_tool_that_an_updated_darkroom_does_not_have_offers_to_reload_the_page(
    reader: Reader,
) -> None:
    reader.field("prompt").fill("a hill")
    update(reader)
    reader.page.get_by_role("button", name="Grid", exact=True).click()
    notice = reader.page.locator("#updated")
    expect(notice).to_contain_text("Darkroom was updated. Reload the page.")
    expect(reader.page.locator("#form-problem")).to_contain_text("Darkroom was updated.")
    reload(reader, notice)
    expect(reader.field("prompt")).to_have_value("a hill")


@pytest.mark.long
def test_a_page_whose_script_is_of_another_version_says_so(page: Page, idle: PageDarkroom) -> None:
    page.route("**/bundle.js", lambda route: route.fulfill(status=404, json={}))
    page.goto(idle.url)
    expect(page.get_by_role("alert")).to_contain_text("Darkroom may have been updated")
    page.unroute_all()
    with page.expect_navigation():
        page.get_by_role("button", name="Reload").click()
    with page.expect_response("**/v1/sign-in"):  # the script runs
        page.reload()


@pytest.mark.long
def test_a_result_of_the_gallery_can_be_used_again_in_the_form(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    reader.page.get_by_role("link", name="Gallery").click()
    reader.page.get_by_role("link", name="a hill").click()
    reader.page.get_by_role("dialog").get_by_role("button", name="Use again").click()
    expect(reader.field("prompt")).to_have_value("a hill")
    expect(reader.page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.long
def test_another_key_sees_nothing_of_a_view_that_was_open(
    page: Page, installation: PageDarkroom
) -> None:
    reader = Reader(page, installation)
    reader.enter()
    expect_images(reader.generate("a hill"), 1)
    page.get_by_role("link", name="Gallery").click()
    expect(page.get_by_role("link", name="a hill")).to_be_visible()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget this key").click()
    expect(page.get_by_role("link", name="a hill")).to_have_count(0)


@pytest.mark.long
def test_a_view_that_loads_slowly_shows_where_the_address_has_gone_meanwhile(
    reader: Reader,
) -> None:
    page = reader.page
    routes: list[Route] = []
    page.route("**/models.css", lambda route: routes.append(route))  # noqa: PLW0108
    page.evaluate("location.hash = 'view=models'")
    expect(page.get_by_text("Loading …")).to_be_visible()
    page.evaluate(f"location.hash = 'view=models&id={FLUX}'")
    page.wait_for_function("() => document.querySelector('main.models') !== null")
    for paused in routes:
        paused.continue_()
    expect(page.get_by_role("table", name="Output")).to_be_visible()
