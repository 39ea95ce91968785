"""Gallery while results change or are downloaded, and late answers."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from playwright.sync_api import APIResponse, Download, Locator, Route, expect

from tests.page.gallery import Gallery
from tests.page.reader import box_of, expect_said
from tests.page.test_gallery import FOX, HILL, SEA

pytestmark = pytest.mark.long

REFRESH = re.compile(r"/v1/requests\?limit=100&")


def test_an_older_answer_does_not_bring_back_what_is_deleted(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    page = gallery.page
    pending: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        pending.append((route, route.fetch()))

    page.route(REFRESH, hold, times=1)
    with page.expect_request(REFRESH):
        pass
    gallery.link("a calm sea").focus()
    page.keyboard.press("Delete")
    page.get_by_role("dialog", name="Delete 1 request?").get_by_role(
        "button", name="Delete"
    ).click()
    expect(gallery.link("a calm sea")).to_have_count(0)
    ((route, answer),) = pending
    with page.expect_request(REFRESH):  # the next one: the older answer is read by then
        page.route(REFRESH, lambda _: None)  # and it is not answered
        route.fulfill(response=answer)
    assert gallery.link("a calm sea").count() == 0


def test_a_mark_does_not_flip_back_while_it_is_being_set(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    page = gallery.page
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    page.route("**/v1/requests/favourites", hold)
    with page.expect_request("**/v1/requests/favourites"):
        gallery.link("a calm sea").focus()
        page.keyboard.press("f")
    for _ in range(2):  # the answer to the first one is read when the second is asked for
        with page.expect_request(REFRESH):
            pass
    assert gallery.link("a calm sea, favourite").count() == 1
    routes[0].continue_()
    expect(page.locator(".toast")).to_contain_text("Marked")
    gallery.darkroom.hang([FOX])
    expect(gallery.results).to_have_count(4)  # later answers count again
    expect(gallery.link("a calm sea, favourite")).to_be_visible()


def press_on(element: Locator) -> None:
    """Press the mouse in the middle of an element."""
    left, top, right, bottom = box_of(element)
    element.page.mouse.move((left + right) / 2, (top + bottom) / 2)
    element.page.mouse.down()


def pass_refreshes(gallery: Gallery, count: int = 2) -> None:
    """Wait for refreshes; the last one is asked for when those before it are shown."""
    for _ in range(count):
        with gallery.page.expect_request(REFRESH):
            pass


def test_a_press_that_lasts_over_a_refresh_opens_the_result(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    press_on(gallery.link("a calm sea"))
    pass_refreshes(gallery)
    gallery.page.mouse.up()
    expect(gallery.page.get_by_role("dialog", name="a calm sea")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_results_stay_in_place_when_the_list_of_days_arrives(
    gallery: Gallery, width: int
) -> None:
    gallery.page.set_viewport_size({"width": width, "height": 800})
    gallery.darkroom.hang([HILL, SEA])
    routes: list[Route] = []

    def hold(route: Route) -> None:
        routes.append(route)

    gallery.page.route("**/v1/requests/days?*", hold)
    with gallery.page.expect_request("**/v1/requests/days?*"):
        gallery.open()
    expect(gallery.results).to_have_count(2)
    before = box_of(gallery.link("a calm sea"))
    (route,) = routes
    route.continue_()
    days = gallery.page.get_by_role("navigation", name="Days")
    expect(days.get_by_role("button")).to_have_count(2)
    assert box_of(gallery.link("a calm sea")) == before


def test_a_press_opens_the_result_also_when_newer_results_arrive_meanwhile(
    gallery: Gallery,
) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    press_on(gallery.link("a calm sea"))
    gallery.darkroom.hang([FOX])
    pass_refreshes(gallery)
    gallery.page.mouse.up()
    dialog = gallery.page.get_by_role("dialog", name="a calm sea")
    expect(dialog).to_be_visible()
    gallery.page.keyboard.press("Escape")
    expect(gallery.results).to_have_count(4)


LOSSES = """link => {
    window.losses = 0;
    link.addEventListener("blur", () => window.losses += 1);
    link.focus();
}"""


def test_the_focused_result_keeps_its_focus_while_others_change(gallery: Gallery) -> None:
    hill, _ = gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    link = gallery.link("a calm sea")
    link.evaluate(LOSSES)
    pass_refreshes(gallery)
    marked = httpx.post(
        f"{gallery.darkroom.url}/v1/requests/favourites",
        headers={"Authorization": f"Key {gallery.darkroom.key}"},
        json={"request_ids": [hill], "favourite": True},
        trust_env=False,
    )
    assert marked.is_success
    expect(gallery.link("a hill, favourite")).to_be_visible()
    expect(link).to_be_focused()
    assert gallery.page.evaluate("losses") == 0


def test_one_download_at_a_time_says_that_it_goes_on_and_can_be_cancelled(
    gallery: Gallery,
) -> None:
    page = gallery.page
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    page.keyboard.press("Control+a")
    unanswered: list[Route] = []

    def hold(route: Route) -> None:
        unanswered.append(route)

    page.route("**/v1/requests/zip", hold)
    download = page.get_by_role("toolbar", name="Selection").get_by_role("button", name="Download")
    with page.expect_request("**/v1/requests/zip"):
        download.click()
    going = page.get_by_role("group", name="Download")
    expect(going).to_contain_text("Downloading 2 files")
    download.click()
    expect_said(page, "A download goes on already.")
    assert len(unanswered) == 1
    going.get_by_role("button", name="Cancel").click()
    expect_said(page, "The download was cancelled.")
    expect(going).to_be_hidden()
    page.unroute("**/v1/requests/zip")
    with page.expect_download():
        download.click()
    expect_said(page, "Downloaded: 2 files.")


def test_more_requests_than_an_archive_holds_come_in_several(gallery: Gallery) -> None:
    page = gallery.page
    gallery.darkroom.hang(
        [replace(HILL, age=HILL.age + timedelta(seconds=at)) for at in range(501)]
    )
    gallery.open()
    expect(gallery.results.first).to_be_visible()
    page.mouse.move(640, 600)
    while not page.get_by_text("501 requests.").is_visible():
        page.mouse.wheel(0, 1_000_000)
    page.locator("body").press("Control+a")
    saved: list[Download] = []

    def note(download: Download) -> None:
        saved.append(download)

    page.on("download", note)
    page.get_by_role("button", name="Download").click()
    expect_said(page, "Downloaded: 501 files in 2 archives.")
    names = [saved_file.suggested_filename for saved_file in saved]
    assert [name[-6:] for name in names] == ["-1.zip", "-2.zip"]
