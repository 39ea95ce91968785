"""The page survives a restart of the server."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from serve_app.gateway.unavailable import UNAVAILABLE
from tests.page.darkroom import PageDarkroom
from tests.page.reader import Reader, expect_images, expect_phase

AWAY = "Darkroom does not answer. Trying again"
AGAIN_MS = 2000  # between two attempts of the page
SILENT = "No contact with Darkroom."
REPEATING = "The page tries again for up to a minute"
UNKNOWN = "may or may not have been accepted"


def test_a_restart_while_requests_wait_is_reported_and_survived(waiting: Reader) -> None:
    sheets = [waiting.generate(f"hill {number}") for number in range(3)]
    expect_phase(sheets[0], "queued")
    waiting.darkroom.stop_http()
    expect(waiting.page.get_by_text(AWAY)).to_be_visible()
    for sheet in sheets:
        expect(sheet).to_contain_text(SILENT)
    waiting.darkroom.start_painting()
    waiting.darkroom.start_http()
    for sheet in sheets:
        expect_images(sheet, 1)
        expect(sheet).not_to_contain_text(SILENT)
    expect(waiting.page.get_by_text(AWAY)).to_be_hidden()


@pytest.mark.long
def test_a_submit_without_an_answer_is_repeated_until_the_user_stops_it(reader: Reader) -> None:
    reader.darkroom.stop_http()
    reader.field("prompt").fill("a hill")
    generate = reader.page.get_by_role("button", name="Generate")
    generate.click()
    expect(reader.page.get_by_text(REPEATING)).to_be_visible()
    generate.click()  # it would be a second request
    reader.page.get_by_role("button", name="Stop", exact=True).click()
    expect(reader.page.get_by_text(UNKNOWN)).to_be_visible()
    expect(reader.field("prompt")).to_have_value("a hill")
    reader.darkroom.start_http()
    generate.click()
    expect_images(reader.sheets.first, 1)
    expect(reader.request_rows).to_have_count(1)
    expect(reader.page.get_by_text(UNKNOWN)).to_be_hidden()


LOST: Any = pytest.mark.parametrize("status", [0, 502, 504])


@pytest.mark.variants(1)
@LOST
def test_a_submit_whose_answer_is_lost_is_one_request(reader: Reader, status: int) -> None:
    keys: list[str | None] = []

    def lose_the_first(route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        keys.append(route.request.header_value("idempotency-key"))
        if len(keys) > 1:
            route.continue_()
            return
        assert route.fetch().ok  # Darkroom has accepted it
        if status:
            route.fulfill(status=status, body="<h1>Bad gateway")
        else:
            route.abort()

    reader.page.route("**/queue/**", lose_the_first)
    expect_images(reader.generate("a hill"), 1)
    expect(reader.page.get_by_text(REPEATING)).to_be_hidden()
    expect(reader.request_rows).to_have_count(1)
    assert keys[0]
    assert keys == [keys[0]] * 2
    expect_images(reader.generate("a hill"), 1)  # the next press is another request
    assert keys[2] != keys[0]


def test_a_proxy_that_reaches_no_darkroom_is_no_darkroom_that_answers(waiting: Reader) -> None:
    page = waiting.page
    sheet = waiting.generate("a hill")
    expect_phase(sheet, "queued")
    body = UNAVAILABLE.partition("\r\n\r\n")[2]
    away = re.compile("/(v1|queue)/")
    page.route(
        away, lambda route: route.fulfill(status=503, body=body, content_type="application/json")
    )
    waiting.field("prompt").fill("a lake")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text(REPEATING)).to_be_visible()
    expect(page.get_by_text(AWAY)).to_be_visible()
    page.wait_for_timeout(AGAIN_MS)
    expect(page.get_by_text(AWAY)).to_be_visible()
    page.unroute(away)
    expect(waiting.sheets).to_have_count(2)


@pytest.mark.long
def test_a_submit_without_an_answer_for_a_minute_says_so(page: Page, waiting: Reader) -> None:
    page.clock.install()
    page.route("**/queue/**", lambda route: route.abort())
    waiting.field("prompt").fill("a hill")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text(REPEATING)).to_be_visible()
    while not page.get_by_text(UNKNOWN).is_visible():
        page.clock.fast_forward(2000)
    expect(page.get_by_role("button", name="Generate")).not_to_have_attribute("aria-busy", "true")


@pytest.mark.long
def test_a_page_that_was_opened_too_early_comes_up_by_itself(
    page: Page, installation: PageDarkroom
) -> None:
    page.goto(installation.url)
    page.route("**/v1/models*", lambda route: route.fulfill(status=502, body="<h1>Bad gateway"))
    Reader(page, installation).give_key(installation.key)
    expect(page.get_by_text(AWAY)).to_be_visible()
    page.unroute("**/v1/models*")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.long
def test_a_key_form_that_is_opened_meanwhile_stays_with_what_is_typed(
    reader: Reader, page: Page
) -> None:
    page.route("**/v1/models*", lambda route: route.fulfill(status=502, body="<h1>Bad gateway"))
    page.reload()
    expect(page.get_by_text(AWAY)).to_be_visible()
    page.get_by_role("button", name="API key").click()
    page.get_by_label("API key", exact=True).fill("dk_typed")
    page.unroute("**/v1/models*")
    page.wait_for_timeout(AGAIN_MS + 1000)
    expect(page.get_by_label("API key", exact=True)).to_have_value("dk_typed")
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


def test_a_request_that_darkroom_does_not_know_any_more_is_reported_as_lost(
    reader: Reader, page: Page
) -> None:
    expect_phase(reader.generate("a hill"), "succeeded")
    page.evaluate(
        """() => {
            const kept = JSON.parse(sessionStorage.getItem("darkroom.requests"));
            kept[0].id = "0195a1b2-0000-7000-8000-000000000000";
            sessionStorage.setItem("darkroom.requests", JSON.stringify(kept));
        }"""
    )
    page.reload()
    expect_phase(reader.sheets.first, "lost")
    expect(reader.sheets.first).to_contain_text("There is no request")
