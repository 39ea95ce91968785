"""Gallery while results are changed: answers of the server that are older than the change."""

from __future__ import annotations

import re

from playwright.sync_api import APIResponse, Route, expect

from tests.page.gallery import Gallery
from tests.page.test_gallery import FOX, HILL, SEA

REFRESH = re.compile(r"/v1/requests\?limit=100&")


def test_an_older_answer_does_not_bring_back_what_is_deleted(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    page = gallery.page
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        held.append((route, route.fetch()))

    page.route(REFRESH, hold, times=1)
    with page.expect_request(REFRESH):
        pass
    gallery.link("a calm sea").focus()
    page.keyboard.press("Delete")
    page.get_by_role("dialog", name="Delete 1 request?").get_by_role(
        "button", name="Delete"
    ).click()
    expect(gallery.link("a calm sea")).to_have_count(0)
    ((route, answer),) = held
    with page.expect_request(REFRESH):  # the next one: the older answer is read by then
        page.route(REFRESH, lambda _: None)  # and it is not answered
        route.fulfill(response=answer)
    assert gallery.link("a calm sea").count() == 0


def test_a_mark_does_not_flip_back_while_it_is_being_set(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    page = gallery.page
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/requests/favourites", hold)
    with page.expect_request("**/v1/requests/favourites"):
        gallery.link("a calm sea").focus()
        page.keyboard.press("f")
    for _ in range(2):  # the answer to the first one is read when the second is asked for
        with page.expect_request(REFRESH):
            pass
    assert gallery.link("a calm sea, favourite").count() == 1
    held[0].continue_()
    expect(page.locator(".toast")).to_contain_text("Marked")
    gallery.darkroom.hang([FOX])
    expect(gallery.results).to_have_count(4)  # later answers count again
    expect(gallery.link("a calm sea, favourite")).to_be_visible()
