"""What was entered, and what was shown, stays over a reload."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.page.reader import Reader, expect_images, expect_phase
from tests.page.test_requests import submit

CLOCK = "Date.now = () => new Date().getTime() + 3_600_000"


def test_a_reload_keeps_the_prompt_and_the_settings(reader: Reader) -> None:
    reader.field("prompt").fill("a hill that took long to describe")
    reader.field("image_size").select_option("portrait_16_9")
    reader.unfold()
    reader.field("seed").fill("18446744073709551557")
    reader.page.reload()
    expect(reader.field("prompt")).to_have_value("a hill that took long to describe")
    expect(reader.field("image_size")).to_have_value("portrait_16_9")
    expect(reader.field("seed")).to_have_value("18446744073709551557")


@pytest.mark.long
def test_another_tab_begins_with_what_was_entered_last(
    reader: Reader, context: BrowserContext
) -> None:
    reader.field("prompt").fill("a hill")
    reader.page.close()
    tab = Reader(context.new_page(), reader.darkroom)
    tab.page.goto(reader.darkroom.url)
    expect(tab.field("prompt")).to_have_value("a hill")


@pytest.mark.long
def test_a_key_that_is_forgotten_takes_the_prompt_with_it(reader: Reader) -> None:
    reader.field("prompt").fill("a secret hill")
    reader.page.get_by_role("button", name="API key").click()
    reader.page.get_by_role("button", name="Forget this key").click()
    kept = reader.page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    assert "secret" not in kept
    reader.page.reload()
    assert "secret" not in reader.page.evaluate("JSON.stringify([localStorage, sessionStorage])")


def test_the_elapsed_time_counts_from_the_submission_also_after_a_reload(
    waiting: Reader,
) -> None:
    sheet = waiting.generate("a hill")
    expect_phase(sheet, "queued")
    waiting.page.add_init_script(CLOCK)
    waiting.page.reload()
    expect(sheet.locator(".elapsed")).to_have_text(re.compile(r"^60 min \d+ s$"))


@pytest.mark.long
def test_a_new_browser_shows_the_latest_result(
    reader: Reader, open_context: Callable[..., BrowserContext]
) -> None:
    expect_images(reader.generate("a hill"), 1)
    other = Reader(open_context().new_page(), reader.darkroom)
    other.enter()
    expect_images(other.sheets.first, 1)
    other.sheets.first.get_by_role("button", name="Use again").click()
    expect(other.field("seed")).to_have_value("1234567")
    expect(other.field("prompt")).to_have_value("a hill")


@pytest.mark.long
def test_an_input_that_this_tab_kept_only_in_part_is_read_from_the_server(
    reader: Reader, page: Page
) -> None:
    long = "a hill " * 1500
    submit(reader, "fal-ai/flux/schnell", prompt=long)
    expect(reader.request_rows.first).to_have_attribute("data-state", "succeeded")
    page.reload()
    expect_images(reader.sheets.first, 1)
    reader.sheets.first.get_by_role("button", name="Use again").click()
    expect(reader.field("prompt")).to_have_value(long)
