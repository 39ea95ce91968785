"""The page of an installation whose files are private."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from serve_app.domain.request import State
from serve_app.telemetry.clock import SystemClock
from tests.page.album import entries
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.gallery import Gallery
from tests.page.reader import Reader, expect_images


@pytest.fixture
def private() -> Iterator[PageDarkroom]:
    with page_darkroom(files="private") as darkroom:
        yield darkroom


def test_private_images_are_shown_saved_listed_and_shared(
    page: Page, private: PageDarkroom, open_context: Callable[..., BrowserContext]
) -> None:
    reader = Reader(page, private)
    reader.enter()
    sheet = reader.generate("a quiet harbour")
    expect_images(sheet, 1)
    with page.expect_download() as saving:
        sheet.get_by_role("link", name="Download").click()
    saved = saving.value.path().read_bytes()
    assert saved[:3] == b"\xff\xd8\xff"
    address = str(sheet.get_by_role("link", name="Open", exact=True).get_attribute("href"))
    assert httpx.get(address, trust_env=False).content == saved
    assert httpx.get(address.partition("?")[0], trust_env=False).status_code == 403
    page.reload()
    gallery = Gallery(page, private)
    gallery.open()
    gallery.link("a quiet harbour").click()
    expect(page.get_by_role("img", name="a quiet harbour").first).to_be_visible()
    page.get_by_role("img", name="a quiet harbour").first.evaluate("image => image.decode()")
    page.get_by_role("button", name="Share").click()
    dialog = page.get_by_role("dialog", name="Share")
    dialog.get_by_role("button", name="Make a link").click()
    guest = open_context().new_page()
    guest.goto(dialog.get_by_label("Link", exact=True).input_value())
    guest.get_by_role("img", name="a quiet harbour").first.evaluate("image => image.decode()")


class LateClock(SystemClock):
    late = timedelta()

    def now(self) -> datetime:
        return super().now() + self.late


def test_images_whose_urls_have_expired_are_shown_again_also_beyond_the_first_page(
    page: Page,
) -> None:
    clock = LateClock()
    with page_darkroom(files="private", painting=False, clock=clock) as private:
        private.hang(
            [replace(each, files=1, state=State.SUCCEEDED) for each in entries(300, days=2)],
            private=True,
        )
        gallery = Gallery(page, private)
        gallery.open()
        expect(gallery.results.first).to_be_visible()
        page.mouse.move(640, 600)
        while not page.get_by_text("300 results.").is_visible():
            page.mouse.wheel(0, 1_000_000)
        clock.late = timedelta(days=30)
        # Those in the middle were never drawn, and are not refreshed as the newest ones are.
        drawn = page.locator('.tile[data-place="180"] img')
        while not drawn.is_visible():  # the wheel may still be turning
            page.evaluate("scrollTo(0, 0.6 * document.documentElement.scrollHeight)")
        expect(drawn).to_be_visible()
        expect(drawn).to_have_js_property("complete", value=True)
        drawn.evaluate("image => image.decode()")
        expect(page.get_by_text("This file is gone.")).to_have_count(0)
