"""The page of an installation whose files are private."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from serve_app.domain.request import State
from serve_app.telemetry.clock import SystemClock
from tests.page.album import Entry, entries
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.gallery import Gallery
from tests.page.reader import Reader, expect_images
from tests.page.test_reuse import CHANGES, offer

pytestmark = pytest.mark.long


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
            [replace(entry, files=1, state=State.SUCCEEDED) for entry in entries(300, days=2)],
            private=True,
        )
        gallery = Gallery(page, private)
        gallery.open()
        expect(gallery.results.first).to_be_visible()
        page.mouse.move(640, 600)
        while not page.get_by_text("300 requests.").is_visible():
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


def later(page: Page, clock: LateClock, hours: int) -> None:
    """Let ``hours`` have passed since the start, for Darkroom and for the browser."""
    clock.late = timedelta(hours=hours)
    page.clock.set_fixed_time(clock.now())


def test_what_a_card_and_its_details_lead_to_works_after_the_urls_have_expired(page: Page) -> None:
    clock = LateClock()
    with page_darkroom(files="private", clock=clock) as private:
        reader = Reader(page, private)
        reader.enter()
        sheet = reader.generate("a quiet harbour")
        expect_images(sheet, 1)
        sheet.get_by_role("button", name="Details").click()
        details = page.get_by_role("dialog").locator(".made")
        expect(details.get_by_role("link", name="Download")).to_be_visible()
        later(page, clock, 2)
        with page.expect_download() as saving:
            details.get_by_role("link", name="Download").click()
        saved = saving.value.path().read_bytes()
        assert saved[:3] == b"\xff\xd8\xff"
        page.keyboard.press("Escape")
        with page.expect_download() as saving:
            sheet.get_by_role("link", name="Download").click()
        assert saving.value.path().read_bytes() == saved
        later(page, clock, 4)
        with page.expect_popup() as opening:
            sheet.get_by_role("link", name="Open", exact=True).click()
        address = opening.value.url
        assert httpx.get(address, trust_env=False).content == saved


def test_what_a_card_shows_is_loaded_again_when_its_url_has_expired(page: Page) -> None:
    clock = LateClock()
    with page_darkroom(files="private", clock=clock) as private:
        reader = Reader(page, private)
        reader.enter()
        sheet = reader.generate("a quiet harbour")
        expect_images(sheet, 1)
        later(page, clock, 2)
        shown = sheet.locator("img")
        before = shown.get_attribute("src")
        shown.evaluate("it => it.dispatchEvent(new Event('error'))")  # as that of a player
        expect(shown).not_to_have_attribute("src", str(before))
        shown.evaluate("image => image.decode()")


IS_WHOLE = """async () => {
    const { src } = document.querySelector(".view-box img");
    return src === document.querySelector(".panel a[download]").href && (await fetch(src)).ok;
}"""


def test_large_results_whose_urls_have_expired_are_shown_and_saved(page: Page) -> None:
    clock = LateClock()
    with page_darkroom(files="private", painting=False, clock=clock) as private:
        names = ("one", "two", "three", "four")
        private.hang(
            [Entry(name, timedelta(minutes=at + 1)) for at, name in enumerate(names)], private=True
        )
        gallery = Gallery(page, private)
        gallery.open()
        gallery.link("one").click()
        large = page.locator(".view-box img")
        saved = page.locator(".panel a[download]")
        expect(large).to_have_attribute("alt", "one")
        page.route("**/v1/requests?*limit=100*", lambda route: route.abort())  # of the newest ones
        later(page, clock, 2)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(large).to_have_attribute("alt", "three")
        page.wait_for_function(IS_WHOLE)
        later(page, clock, 4)
        with page.expect_download() as saving:
            saved.click()
        assert saving.value.failure() is None


def wait_for_tiles(gallery: Gallery, number: int) -> None:
    """Until all are loaded: one that is late finds its URL expired, and has it renewed."""
    tiles = gallery.page.locator(".tile img")
    expect(tiles).to_have_count(number)
    for tile in tiles.all():
        tile.evaluate("image => image.decode()")


def test_a_download_waits_for_new_urls_that_are_being_read(page: Page) -> None:
    clock = LateClock()
    with page_darkroom(files="private", painting=False, clock=clock) as private:
        names = ("one", "two", "three")
        private.hang(
            [Entry(name, timedelta(minutes=at + 1)) for at, name in enumerate(names)], private=True
        )
        gallery = Gallery(page, private)
        gallery.open()
        wait_for_tiles(gallery, 3)
        gallery.link("two").click()
        large = page.locator(".view-box img")
        expect(large).to_have_attribute("alt", "two")
        large.evaluate("image => image.decode()")
        routes: list[Route] = []

        def hold(route: Route) -> None:
            routes.append(route)

        page.route("**/v1/requests?*limit=100*", lambda route: route.abort())  # of the newest ones
        page.route("**/v1/requests?*limit=250*", hold)
        later(page, clock, 2)
        tile = page.locator(".tile img").first
        tile.evaluate("it => it.dispatchEvent(new Event('error'))")
        while not routes:
            page.wait_for_timeout(10)
        page.locator(".panel a[download]").click()
        with page.expect_download() as saving:
            routes[0].continue_()
        assert saving.value.failure() is None


ARE_DECODED = """() => {
    const images = [...document.querySelectorAll(".compared img")];
    return Promise.all(images.map((each) => each.decode())).then(() => true, () => false);
}"""


HAVE_NOT_EXPIRED = """() => [...document.querySelectorAll(".compared img")].every(
    (each) => Number(new URL(each.src).searchParams.get("expires")) * 1000 > Date.now())"""


def test_results_are_compared_after_their_urls_have_expired(page: Page) -> None:
    clock = LateClock()
    with page_darkroom(files="private", painting=False, clock=clock) as private:
        names = ("one", "two", "three")
        private.hang(
            [Entry(name, timedelta(minutes=at + 1)) for at, name in enumerate(names)], private=True
        )
        gallery = Gallery(page, private)
        gallery.open()
        wait_for_tiles(gallery, 3)
        for name in names[:2]:
            page.get_by_role("checkbox", name=f"Select {name}", exact=True).click()
        page.route("**/v1/requests?*limit=100*", lambda route: route.abort())  # of the newest ones
        later(page, clock, 2)
        page.get_by_role("button", name="Compare").click()
        shown = page.locator(".compared img")
        expect(shown).to_have_count(2)
        # The browser may have the file, and then loads nothing. If not, new URLs may be there.
        shown.first.evaluate("it => it.dispatchEvent(new Event('error'))")
        page.wait_for_function(HAVE_NOT_EXPIRED)
        page.wait_for_function(ARE_DECODED)


SHOWN = """() => document.querySelector(".media-chosen img")?.naturalWidth > 0"""


def use_as_input(page: Page, private: PageDarkroom) -> None:
    """Generate an image, and use it in the form of another model."""
    reader = Reader(page, private)
    offer(page, CHANGES)
    reader.enter()
    sheet = reader.generate("a quiet harbour")
    expect_images(sheet, 1)
    sheet.get_by_role("button", name="Use as input").click()
    menu = page.get_by_role("dialog", name="Use this image as input")
    menu.get_by_role("button", name="Changes").click()
    page.wait_for_function(SHOWN)


def test_a_private_image_in_the_form_is_shown_and_cropped_after_its_url_has_expired(
    page: Page,
) -> None:
    clock = LateClock()
    with page_darkroom(files="private", clock=clock) as private:
        use_as_input(page, private)
        shown = page.locator(".media-chosen img")
        before = str(shown.get_attribute("src"))
        later(page, clock, 2)
        page.get_by_role("button", name="Crop").click()
        expect(page.get_by_role("dialog").locator("canvas").first).to_be_visible()
        page.keyboard.press("Escape")
        expect(shown).not_to_have_attribute("src", before)
        later(page, clock, 4)
        page.reload()
        page.wait_for_function(SHOWN)


def test_an_image_of_the_form_that_is_gone_says_so(page: Page) -> None:
    clock = LateClock()
    with page_darkroom(files="private", clock=clock) as private:
        use_as_input(page, private)
        private.house.storage.objects.clear()
        later(page, clock, 2)
        page.reload()
        expect(page.locator(".media-state.bad")).to_contain_text("not there any more")
