"""The browser's Back, Forward and links, and the links that sign in."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import FLUX, PROBE, Reader, expect_images


def test_back_closes_the_details_and_forward_opens_them_again(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    dialog = reader.page.get_by_role("dialog")
    reader.request_rows.first.locator(".request").click()
    expect(dialog).to_contain_text("Log")
    reader.page.go_back()
    expect(dialog).to_be_hidden()
    expect(reader.sheets).to_have_count(1)
    reader.page.go_forward()
    expect(dialog).to_contain_text("Log")


@pytest.mark.long
def test_back_closes_the_program(reader: Reader) -> None:
    reader.page.locator("#code-button").click()
    expect(reader.page.get_by_role("dialog")).to_be_visible()
    reader.page.go_back()
    expect(reader.page.get_by_role("dialog")).to_be_hidden()
    expect(reader.field("prompt")).to_be_visible()


@pytest.mark.long
def test_a_dialog_that_was_closed_leaves_nothing_to_go_back_to(reader: Reader) -> None:
    before = reader.page.url
    reader.page.locator("#code-button").click()
    expect(reader.page.get_by_role("dialog")).to_be_visible()  # its script is loaded now
    reader.page.keyboard.press("Escape")
    expect(reader.page).to_have_url(before)


@pytest.mark.long
def test_back_returns_to_the_model_before(reader: Reader) -> None:
    reader.choose(PROBE)
    reader.page.go_back()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value(FLUX)
    expect(reader.field("prompt")).to_be_visible()
    reader.page.go_forward()
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value(PROBE)


def test_a_link_to_a_request_opens_it(reader: Reader) -> None:
    sheet = reader.generate("a long stair")
    expect_images(sheet, 1)
    request = sheet.get_attribute("data-request")
    reader.page.goto("about:blank")
    reader.page.goto(f"{reader.darkroom.url}/#request={request}")
    dialog = reader.page.get_by_role("dialog")
    expect(dialog).to_contain_text("a long stair")
    reader.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


@pytest.mark.long
def test_an_input_that_is_used_again_keeps_its_model_when_its_details_close(
    reader: Reader,
) -> None:
    expect_images(reader.generate("a hill"), 1)
    reader.choose(PROBE)
    reader.request_rows.first.locator(".request").click()
    reader.page.get_by_role("dialog").get_by_role("button", name="Use again").click()
    expect(reader.field("prompt")).to_have_value("a hill")
    expect(reader.page.get_by_label("Model", exact=True)).to_have_value(FLUX)
    expect(reader.page.get_by_role("dialog")).to_be_hidden()


def test_a_one_time_link_signs_in_and_its_key_leaves_the_address(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(f"{installation.url}/#model={PROBE}&key={installation.key}")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(page.get_by_label("Model", exact=True)).to_have_value(PROBE)
    assert installation.key not in page.url
    page.reload()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    page.go_back()
    assert installation.key not in page.url


@pytest.mark.long
def test_a_link_with_another_key_asks_before_it_replaces_the_stored_one(reader: Reader) -> None:
    reader.page.goto("about:blank")
    reader.page.goto(f"{reader.darkroom.url}/#key={reader.darkroom.house.other_key}")
    expect(reader.page.get_by_role("alert")).to_contain_text("another key than this browser")
    stored = "localStorage.getItem('darkroom.key')"
    assert reader.page.evaluate(stored) == reader.darkroom.key
    assert reader.darkroom.house.other_key not in reader.page.url
    reader.page.get_by_role("button", name="Back").click()
    expect(reader.field("prompt")).to_be_visible()
    assert reader.page.evaluate(stored) == reader.darkroom.key
    reader.page.goto(f"{reader.darkroom.url}/#key={reader.darkroom.house.other_key}")
    reader.page.get_by_role("button", name="Open").click()
    expect(reader.page.get_by_role("button", name="Generate")).to_be_visible()
    assert reader.page.evaluate(stored) == reader.darkroom.house.other_key


@pytest.mark.long
def test_a_link_that_is_followed_in_an_open_page_works_too(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(installation.url)
    expect(page.get_by_label("API key", exact=True)).to_be_visible()
    page.evaluate("hash => { location.hash = hash; }", f"key={installation.key}")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


def one_time_link(served: PageDarkroom) -> str:
    answer = httpx.post(
        f"{served.url}/v1/sign-in/links",
        json={},
        headers={"authorization": f"Key {served.key}"},
        timeout=30,
    )
    return f"{served.url}{answer.raise_for_status().json()['path']}"


STORED = "localStorage.getItem('darkroom.key')"


@pytest.mark.long
def test_a_one_time_link_opens_the_page_with_a_key_of_its_own_and_only_once(
    page: Page, installation: PageDarkroom, open_context: Callable[..., BrowserContext]
) -> None:
    link = one_time_link(installation)
    page.goto(link)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    assert "link" not in page.url
    assert page.evaluate(STORED) not in (None, installation.key)
    page.reload()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    second = open_context().new_page()
    second.goto(link)
    expect(second.get_by_role("alert")).to_contain_text("This link was used already")
    expect(second.get_by_role("alert")).to_contain_text("`darkroom keys link` prints another")
    assert second.evaluate(STORED) is None


@pytest.mark.long
def test_a_browser_whose_key_works_keeps_it_and_does_not_use_the_link_up(
    reader: Reader, open_context: Callable[..., BrowserContext]
) -> None:
    link = one_time_link(reader.darkroom)
    reader.page.goto("about:blank")
    reader.page.goto(link)
    expect(reader.field("prompt")).to_be_visible()
    expect(reader.page.locator(".toast")).to_contain_text("the link was not used")
    assert reader.page.evaluate(STORED) == reader.darkroom.key
    phone = open_context().new_page()
    phone.goto(link)
    expect(phone.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.long
def test_a_one_time_link_replaces_a_stored_key_that_is_not_valid_any_more(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(installation.url)
    page.evaluate("key => localStorage.setItem('darkroom.key', key)", f"dk_gone:{'0' * 64}")
    page.goto("about:blank")
    page.goto(one_time_link(installation))
    # The form is drawn before the code of the link has been exchanged for a key.
    page.wait_for_function(f"gone => ![null, gone].includes({STORED})", arg=f"dk_gone:{'0' * 64}")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
