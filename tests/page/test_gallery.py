"""Gallery of the results: what is shown, found and kept in the address."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from threading import Event

import httpx
import pytest
from playwright.sync_api import BrowserContext, Error, Locator, Page, Request, Route, expect

from serve_app.domain.request import State
from tests.page.album import Entry, entries
from tests.page.axe import axe, look
from tests.page.darkroom import PageDarkroom
from tests.page.gallery import Gallery
from tests.page.reader import Reader, box_of, expect_images
from tests.page.test_requests import submit

PRESSES = 3
DAY, SOON = timedelta(days=1), timedelta(minutes=1)
HILL = Entry("a hill", SOON)
SEA = Entry("a calm sea", DAY)
FOX = Entry("a fox on a hill", 40 * DAY, files=2)
BROKEN = Entry("a broken hill", SOON, state=State.FAILED)
STOPPED = Entry("a hill that was stopped", SOON, state=State.CANCELLED)


def test_results_are_shown_by_day_with_their_thumbnails(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA, FOX])
    gallery.open()
    expect(gallery.page.get_by_role("heading", name="Today")).to_be_visible()
    expect(gallery.page.get_by_role("heading", name="Yesterday")).to_be_visible()
    expect(gallery.results).to_have_count(4)
    for image in gallery.results.locator("img").all():
        assert image.evaluate("image => image.src").endswith(".webp")
    counts = gallery.page.locator(".days .count")
    expect(counts).to_have_text(["1", "1", "1"])  # requests, as in the line below all
    expect(gallery.page.get_by_text("3 requests.")).to_be_visible()


def test_the_box_that_selects_a_result_does_not_cover_its_state(gallery: Gallery) -> None:
    gallery.darkroom.hang([BROKEN])
    gallery.open()
    tile = gallery.results.first
    tile.hover()
    _, _, right, _ = box_of(tile.get_by_role("checkbox"))
    assert right <= box_of(tile.locator(".dot"))[0]


def test_the_poster_of_a_video_is_no_result_of_its_own(
    gallery: Gallery, open_context: Callable[..., BrowserContext]
) -> None:
    gallery.darkroom.hang([Entry("a film", SOON, content=b"film", extension="mp4", poster=True)])
    gallery.open()
    expect(gallery.link("a film, video")).to_be_visible()
    expect(gallery.results).to_have_count(1)
    gallery.link("a film, video").click()
    gallery.page.get_by_role("button", name="Share").click()
    gallery.page.get_by_role("button", name="Make a link").click()
    link = gallery.page.get_by_label("Link", exact=True).input_value()
    guest = open_context().new_page()
    guest.goto(link)
    expect(guest.get_by_role("link", name="Download")).to_have_count(1)


def test_the_days_count_the_requests_that_are_shown(gallery: Gallery) -> None:
    """Also where only the server knows them: the gallery has not loaded 150 requests at first."""
    cancelled = [replace(STOPPED, age=SOON + n * DAY / 2) for n in range(6)]
    album = [*cancelled, HILL, FOX, *entries(150, days=10)]
    gallery.darkroom.hang(album)
    shown = [entry for entry in album if entry.state is not State.CANCELLED]
    gallery.open()
    days = gallery.page.get_by_role("navigation", name="Days")
    expect(days.get_by_role("button").first).to_be_visible()
    expect_counted(days, len(shown))
    gallery.open("view=gallery&state=cancelled")
    expect(gallery.page.get_by_text(f"{len(album) - len(shown)} requests.")).to_be_visible()
    expect_counted(days, len(album) - len(shown))


def expect_counted(days: Locator, requests: int) -> None:
    """Wait until the numbers beside the days are so many together: the server's come later."""
    numbers = "[...document.querySelectorAll('.days .count')].map((each) => Number(each.innerText))"
    total = f"(requests) => {numbers}.reduce((one, other) => one + other, 0) === requests"
    days.page.wait_for_function(total, arg=requests)


def test_the_day_s_count_follows_a_result_without_a_call(gallery: Gallery) -> None:
    gallery.darkroom.hang([FOX])
    gallery.open()
    count = gallery.page.locator(".days .count")
    expect(count).to_have_text(["1"])
    gallery.page.wait_for_timeout(1000)
    sent: list[str] = []
    gallery.page.on("request", lambda request: sent.append(request.url))
    headers = {"Authorization": f"Key {gallery.darkroom.key}"}
    url = f"{gallery.darkroom.url}/queue/fal-ai/flux/schnell"
    gallery.page.request.post(url, headers=headers, data={"prompt": "a new hill"})
    gallery.darkroom.start_painting()
    expect(gallery.link("a new hill")).to_be_visible()
    expect(count).to_have_text(["1", "1"])
    assert [url for url in sent if "/files/" not in url] == []


@pytest.mark.long
def test_drafts_are_marked_among_finished_results_and_counted(gallery: Gallery) -> None:
    drafting = {"prompt": "a hill", "draft": {"count": 4, "until": 0.25}}
    gallery.darkroom.hang([replace(HILL, input=drafting, files=2), SEA])
    gallery.open()
    expect(gallery.results.locator(".draft-mark")).to_have_count(2)
    expect(gallery.page.get_by_role("link", name="a hill (1), draft")).to_be_visible()
    expect(gallery.page.get_by_text("2 requests, 1 with drafts.")).to_be_visible()
    look(gallery.page)


@pytest.mark.long
def test_a_failed_one_says_why_and_cancelled_ones_are_shown_when_asked_for(
    gallery: Gallery,
) -> None:
    gallery.darkroom.hang([HILL, BROKEN, STOPPED])
    gallery.open()
    failed = gallery.results.filter(has_text="a broken hill")
    expect(failed).to_contain_text("Failed")
    expect(failed).to_contain_text("The paint has run out.")
    expect(gallery.results).to_have_count(2)
    gallery.page.get_by_label("State").select_option("Cancelled")
    expect(gallery.results).to_have_count(1)
    expect(gallery.results).to_contain_text("a hill that was stopped")


def test_a_new_request_appears_and_becomes_its_result_without_a_reload(
    gallery: Gallery,
) -> None:
    gallery.darkroom.hang([SEA])
    gallery.open()
    expect(gallery.results).to_have_count(1)
    reader = Reader(gallery.page, gallery.darkroom)
    submit(reader, "fal-ai/flux/schnell", prompt="a new hill")
    waiting = gallery.results.first
    expect(waiting).to_contain_text("Waiting")
    gallery.darkroom.start_painting()
    expect(gallery.link("a new hill")).to_be_visible()
    expect(waiting).to_have_attribute("data-state", "succeeded")
    expect(gallery.results).to_have_count(2)


def test_words_are_searched_and_back_undoes_a_filter(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA, FOX])
    gallery.open()
    gallery.page.get_by_label("State").select_option("Done")
    expect(gallery.results).to_have_count(4)
    gallery.page.get_by_role("searchbox").fill("sea")
    expect(gallery.results).to_have_count(1)
    expect(gallery.link("a calm sea")).to_be_visible()
    assert "q=sea" in gallery.page.url
    gallery.page.reload()
    expect(gallery.page.get_by_role("searchbox")).to_have_value("sea")
    expect(gallery.results).to_have_count(1)
    gallery.page.go_back()
    expect(gallery.page.get_by_label("State")).to_have_value("")
    expect(gallery.results).to_have_count(4)


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("q=hill", ["a hill", "a fox on a hill (1)", "a fox on a hill (2)"]),
        ("q=hill&until=2020-01-01", []),
        ("kind=image&endpoint=fal-ai/flux/schnell&q=sea", ["a calm sea"]),
        ("kind=video", []),
        ("endpoint=test/probe", []),
        ("state=nonsense&since=yesterday&q=sea", ["a calm sea"]),
    ],
)
def test_a_link_has_its_filters(gallery: Gallery, filters: str, found: list[str]) -> None:
    gallery.darkroom.hang([HILL, SEA, FOX])
    gallery.open(f"view=gallery&{filters}")
    expect(gallery.results).to_have_count(len(found))
    for prompt in found:
        expect(gallery.link(prompt)).to_be_visible()
    if not found:
        expect(gallery.page.get_by_text("Nothing matches.")).to_be_visible()
        gallery.page.get_by_role("button", name="Show everything").click()
        expect(gallery.results).to_have_count(4)


def test_a_favourite_is_marked_by_key_and_found_again(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    gallery.link("a calm sea").focus()
    gallery.page.keyboard.press("f")
    heart = gallery.page.get_by_role("button", name="Favourite: a calm sea")
    expect(heart).to_have_attribute("aria-pressed", "true")
    expect(gallery.link("a calm sea, favourite")).to_be_focused()
    gallery.page.get_by_role("button", name="Favourites").click()
    expect(gallery.results).to_have_count(1)
    gallery.page.reload()
    expect(gallery.link("a calm sea, favourite")).to_be_visible()


def losable(page: Page) -> Callable[[], None]:
    """Function after which calls about requests fail.

    They pass the test from the beginning: what is sent right after a route is set may pass by it.
    """
    lost = Event()

    def answer(route: Route) -> None:
        if lost.is_set():
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/requests**", answer)
    return lost.set


@pytest.mark.long
def test_marks_that_could_not_be_set_are_again_as_each_was(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    lose = losable(gallery.page)
    gallery.open()
    gallery.link("a calm sea").focus()
    gallery.page.keyboard.press("f")
    expect(gallery.link("a calm sea, favourite")).to_be_visible()
    expect(gallery.page.locator(".toast")).to_contain_text("Marked")
    lose()
    gallery.page.keyboard.press("Control+a")
    gallery.page.keyboard.press("f")
    expect(gallery.page.locator(".toast")).to_contain_text("This could not be marked")
    expect(gallery.link("a calm sea, favourite")).to_be_visible()
    expect(gallery.link("a hill")).to_be_visible()


@pytest.mark.long
def test_a_favourite_whose_mark_could_not_be_removed_stays_among_the_favourites(
    gallery: Gallery,
) -> None:
    gallery.darkroom.hang([HILL, SEA])
    lose = losable(gallery.page)
    gallery.open()
    gallery.link("a calm sea").focus()
    gallery.page.keyboard.press("f")
    gallery.page.get_by_role("button", name="Favourites").click()
    expect(gallery.results).to_have_count(1)
    lose()
    gallery.link("a calm sea, favourite").focus()
    gallery.page.keyboard.press("f")
    expect(gallery.page.locator(".toast")).to_contain_text("This could not be marked")
    expect(gallery.link("a calm sea, favourite")).to_be_visible()


@pytest.mark.long
def test_a_day_of_the_list_is_gone_to_also_when_it_was_not_loaded(gallery: Gallery) -> None:
    gallery.darkroom.hang([*entries(150, days=10), FOX])
    gallery.open()
    expect(gallery.results.first).to_be_visible()
    days = gallery.page.get_by_role("navigation", name="Days")
    days.get_by_role("button").last.click()
    expect(gallery.link("a fox on a hill (1)")).to_be_focused()
    expect(gallery.link("a fox on a hill (1)")).to_be_in_viewport()
    expect(days.get_by_role("button").last).to_have_attribute("aria-current", "date")


@pytest.mark.long
def test_a_day_without_a_match_loads_nothing_beyond_it_says_so_and_leaves_the_list(
    gallery: Gallery,
) -> None:
    today = [
        Entry(f"a hill, number {number}", number * timedelta(seconds=1)) for number in range(120)
    ]
    old = [
        Entry(f"an old hill, number {number}", 40 * DAY + number * SOON) for number in range(500)
    ]
    gallery.darkroom.hang([*today, SEA, *old])
    gallery.open("view=gallery&q=hill")
    expect(gallery.results.first).to_be_visible()
    pages: list[str] = []

    def note(request: Request) -> None:
        if "before=" in request.url:
            pages.append(request.url)

    gallery.page.on("request", note)
    days = gallery.page.get_by_role("navigation", name="Days")
    days.get_by_role("button", name="Yesterday").click()
    expect(gallery.page.locator(".toast")).to_contain_text("Nothing of this day matches.")
    assert len(pages) == 1
    expect(days.get_by_role("button", name="Yesterday")).to_have_count(0)  # it is known now


@pytest.mark.long
def test_a_day_whose_results_were_deleted_leaves_the_list(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA, FOX])
    gallery.open()
    days = gallery.page.get_by_role("navigation", name="Days")
    expect(days.get_by_role("button")).to_have_count(3)
    gallery.link("a calm sea").focus()
    gallery.page.keyboard.press("Delete")
    question = gallery.page.get_by_role("dialog", name="Delete 1 request?")
    question.get_by_role("button", name="Delete").click()
    expect(days.get_by_role("button")).to_have_count(2)
    expect(days.get_by_role("button", name="Yesterday")).to_have_count(0)


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_results_leave_the_document_small_and_the_last_has_the_keyboard(
    gallery: Gallery, count: int
) -> None:
    requests = entries(count // 4, days=60)
    kept = [replace(request, files=4, state=State.SUCCEEDED) for request in requests]
    gallery.darkroom.hang(kept)
    gallery.open()
    expect(gallery.results.first).to_be_visible()
    page = gallery.page
    page.mouse.move(640, 600)
    most = 0
    loaded = "() => Number(document.querySelector('.grid').ariaRowCount)"
    while not page.get_by_text("requests.").is_visible():
        before = page.evaluate(loaded)
        page.mouse.wheel(0, 1_000_000)
        page.wait_for_function(
            f"before => ({loaded})() > before || /requests\\.$/.test("
            "document.querySelector('.results .end').textContent)",
            arg=before,
        )
        most = max(most, gallery.results.count())
    expect(page.get_by_text(f"{len(kept):,} requests.")).to_be_visible()
    assert most < 150
    page.locator('.tile a[tabindex="0"]').focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    last = "() => Number(document.activeElement.closest('.tile').dataset.place)"
    assert page.evaluate(last) == count - 1
    expect(page.locator(":focus")).to_be_in_viewport()
    assert gallery.results.count() < 150


@pytest.mark.long
def test_the_keyboard_goes_through_the_results(gallery: Gallery) -> None:
    gallery.darkroom.hang(entries(300, days=3))
    gallery.open()
    expect(gallery.results.first).to_be_visible()
    page = gallery.page
    place = "() => Number(document.activeElement.closest('.tile').dataset.place)"
    gallery.results.first.locator("a").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(place) == 1
    page.keyboard.press("ArrowDown")
    below = page.evaluate(place)
    assert below > 2
    page.keyboard.press("ArrowUp")
    assert page.evaluate(place) < below
    page.keyboard.press("End")
    last = page.evaluate(place)
    assert last > 90
    expect(page.locator(":focus")).to_be_in_viewport()
    page.keyboard.press("PageUp")
    assert below < page.evaluate(place) < last
    page.keyboard.press("Home")
    assert page.evaluate(place) == 0
    reached = page.locator('.tile a[tabindex="0"]')
    expect(reached).to_have_count(1)


@pytest.mark.long
def test_what_is_in_sight_stays_there_when_new_results_appear(gallery: Gallery) -> None:
    gallery.darkroom.hang(entries(120, days=5))
    gallery.open()
    expect(gallery.results.first).to_be_visible()
    page = gallery.page
    page.evaluate("scrollTo({top: 1200})")
    row = "() => [...document.querySelectorAll('.tile')].find((each) =>\
        each.getBoundingClientRect().top >\
        document.querySelector('.gallery .filters').getBoundingClientRect().bottom + 12)"
    page.wait_for_function("() => document.querySelectorAll('.tile.shown').length > 10")
    key = page.evaluate(f"() => ({row})().dataset.key")
    top = f"() => document.querySelector('[data-key=\"{key}\"]').getBoundingClientRect().top"
    before = page.evaluate(top)
    gallery.darkroom.hang([Entry(f"new {number}", timedelta(seconds=1)) for number in range(12)])
    page.wait_for_function(
        "(y) => document.querySelector('.tile').dataset.place !== y",
        arg=page.evaluate("() => document.querySelector('.tile').dataset.place"),
    )
    assert abs(page.evaluate(top) - before) < 3


@pytest.mark.long
def test_what_another_client_deletes_disappears(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL])
    (sea,) = gallery.darkroom.hang([SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    answer = httpx.delete(
        f"{gallery.darkroom.url}/v1/requests/{sea}",
        headers={"Authorization": f"Key {gallery.darkroom.key}"},
        trust_env=False,
    )
    assert answer.status_code == 200
    expect(gallery.results).to_have_count(1)
    expect(gallery.link("a hill")).to_be_visible()


def test_the_end_of_the_connection_is_told_and_can_be_tried_again(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL])
    gallery.open()
    expect(gallery.results).to_have_count(1)
    gallery.page.route("**/v1/requests?*", lambda route: route.abort())
    gallery.page.get_by_label("State").select_option("Done")
    again = gallery.page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    gallery.page.unroute_all()
    again.click()
    expect(gallery.results).to_have_count(1)


@pytest.mark.long
def test_a_gallery_without_results_leads_to_the_form(gallery: Gallery) -> None:
    gallery.open()
    gallery.page.get_by_role("link", name="Create something").click()
    expect(gallery.page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.long
def test_a_tile_follows_the_address_of_its_file_which_is_signed_for_a_time(
    gallery: Gallery,
) -> None:
    gallery.darkroom.hang([HILL])
    gallery.open()
    image = gallery.results.first.locator("img")
    expect(image).to_have_attribute("src", re.compile(r"\.webp$"))

    def sign(route: Route) -> None:
        with suppress(Error):  # the test has ended
            page = route.fetch().json()
            for file in page["requests"][0]["files"]:
                file["url"] += "?signature=new"
                file["thumbnail"]["url"] += "?signature=new"
            route.fulfill(json=page)

    gallery.page.route("**/v1/requests?*", sign)
    expect(image).to_have_attribute("src", re.compile("signature=new"))
    gallery.results.first.locator("a").click()
    download = gallery.page.get_by_role("link", name="Download")
    expect(download).to_have_attribute("href", re.compile("signature=new"))


# Selection.


@pytest.mark.long
def test_a_range_does_not_begin_at_a_result_that_is_gone(gallery: Gallery) -> None:
    ids = gallery.darkroom.hang([Entry(f"number {index}", index * SOON) for index in range(1, 7)])
    gallery.open()
    for number in (5, 4):
        gallery.page.get_by_role("checkbox", name=f"Select number {number}").click()
    answer = httpx.delete(
        f"{gallery.darkroom.url}/v1/requests/{ids[3]}",
        headers={"Authorization": f"Key {gallery.darkroom.key}"},
        trust_env=False,
    )
    assert answer.status_code == 200
    expect(gallery.selected_tiles).to_have_count(1)
    gallery.link("number 6").click(modifiers=["Shift"])
    expect(gallery.page.get_by_text("2 selected")).to_be_visible()


@pytest.mark.long
def test_a_range_and_everything_are_selected(gallery: Gallery) -> None:
    gallery.darkroom.hang([Entry(f"number {number}", number * SOON) for number in range(1, 9)])
    gallery.open()
    gallery.page.get_by_role("checkbox", name="Select number 2").click()
    gallery.link("number 5").click(modifiers=["Shift"])
    expect(gallery.selected_tiles).to_have_count(4)
    expect(gallery.page.get_by_text("4 selected")).to_be_visible()
    gallery.link("number 3").click()
    expect(gallery.selected_tiles).to_have_count(3)
    gallery.page.keyboard.press("Control+a")
    expect(gallery.selected_tiles).to_have_count(8)
    gallery.page.keyboard.press("Escape")
    expect(gallery.selected_tiles).to_have_count(0)
    gallery.link("number 1").focus()
    gallery.page.keyboard.press(" ")
    gallery.page.keyboard.press("Shift+ArrowRight")
    expect(gallery.selected_tiles).to_have_count(2)


@pytest.mark.long
def test_a_long_press_selects_on_a_phone(
    open_context: Callable[..., BrowserContext], idle: PageDarkroom
) -> None:
    phone = open_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    gallery = Gallery(phone.new_page(), idle)
    idle.hang([HILL, SEA])
    gallery.open()
    session = phone.new_cdp_session(gallery.page)
    for _ in range(PRESSES):
        box = gallery.link("a calm sea").bounding_box()
        assert box is not None
        finger = {"x": box["x"] + 20, "y": box["y"] + 20}
        session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [finger]})
        # On a slow machine, the result may move between the look and the press.
        with suppress(AssertionError):
            expect(gallery.selected_tiles).to_have_count(1)
            break
        session.send("Input.dispatchTouchEvent", {"type": "touchCancel", "touchPoints": []})
    expect(gallery.selected_tiles).to_have_count(1)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    gallery.link("a hill").tap()
    expect(gallery.selected_tiles).to_have_count(2)
    assert axe(gallery.page) == []
    assert gallery.page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_deletion_says_what_goes_and_can_be_refused(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, FOX])
    gallery.open()
    gallery.link("a fox on a hill (1)").focus()
    gallery.page.keyboard.press("Delete")
    question = gallery.page.get_by_role("dialog", name="Delete 1 request?")
    expect(question).to_contain_text("This deletes 2 files, the input and the log.")
    expect(question).to_contain_text("are not selected, and are deleted too: 1.")
    question.get_by_role("button", name="Cancel").click()
    expect(gallery.results).to_have_count(3)
    gallery.page.keyboard.press("Delete")
    question.get_by_role("button", name="Delete").click()
    expect(gallery.results).to_have_count(1)
    expect(gallery.link("a hill")).to_be_focused()
    gallery.page.reload()
    expect(gallery.results).to_have_count(1)


@pytest.mark.long
def test_the_files_of_a_selection_are_downloaded_as_one_archive(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL, SEA])
    gallery.open()
    expect(gallery.results).to_have_count(2)
    gallery.page.keyboard.press("Control+a")
    with gallery.page.expect_download() as started:
        gallery.page.get_by_role("button", name="Download").click()
    assert started.value.suggested_filename.endswith(".zip")
    assert started.value.path().read_bytes().startswith(b"PK")


@pytest.mark.long
def test_a_result_of_the_form_is_in_the_gallery(reader: Reader) -> None:
    expect_images(reader.generate("a hill"), 1)
    reader.page.get_by_role("link", name="Gallery").click()
    expect(reader.page.get_by_role("link", name="a hill")).to_be_visible()


@pytest.mark.long
def test_the_size_of_the_tiles_is_remembered(gallery: Gallery) -> None:
    gallery.darkroom.hang([HILL])
    gallery.open()
    height = "each => each.offsetHeight"
    small = gallery.results.evaluate(height)
    gallery.page.get_by_role("button", name="large tiles").click()
    assert gallery.results.evaluate(height) > small
    gallery.page.reload()
    expect(gallery.results).to_have_count(1)
    assert gallery.results.evaluate(height) > small
