"""People who open the page: somebody who tries it for fun, on a laptop and on a phone, and a
designer who changes a picture and compares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.first_hour.rehearsal import Rehearsal
from tests.page.chromium import chromium_program

PROMPT = "a red circle above a blue square"
PROMPT_FIELD = '[id^="field-prompt-"]:is(textarea)'
UNKNOWN = "a cat on a sofa"
OTHER = "a green star"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that shows no window. Raises ``RuntimeError`` without a Chromium."""
    program = chromium_program()
    if program is None:
        raise RuntimeError("There is no Chromium: apt-get install -y chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def _link(url: str, key: str) -> str:
    """One-time link, as the start prints it on a terminal."""
    headers = {"authorization": f"Key {key}"}
    answer = httpx.post(f"{url}/v1/sign-in/links", json={}, headers=headers, timeout=30)
    return f"{url}{answer.raise_for_status().json()['path']}"


def hobbyist(rehearsal: Rehearsal, url: str, key: str) -> None:
    """Opens the link that the start printed, tries an example, and then the word cat."""
    who = "hobbyist"
    rehearsal.read(who, "README.md")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        with rehearsal.step(who, "opens the one-time link", clicks=1):
            page.goto(_link(url, key))
            expect(page.get_by_role("button", name="Generate")).to_be_visible()
        with rehearsal.step(who, "tries the first example", clicks=2):
            # The image of the start takes the stage, and the examples move to the form.
            expect(page.locator(".sheet")).to_have_count(1)
            page.locator(".examples:visible button").first.click()
            _generate(page)
        with rehearsal.step(who, "types what the demo does not know", clicks=2):
            page.locator(PROMPT_FIELD).fill(UNKNOWN)
            expect(page.locator(".unknown-words")).to_contain_text("cat")
        with rehearsal.step(who, "makes four more of the first", clicks=1):
            sheet = page.locator(".sheet").first
            sheet.get_by_role("button", name="× 4").click()
            expect(page.locator(".sheet").first.locator(".made img")).to_have_count(4)
        with rehearsal.step(who, "generates it, and is offered a real model", clicks=1):
            page.locator(PROMPT_FIELD).fill(UNKNOWN)
            _generate(page)
            notice = page.locator(".sheet").first.locator(".unknown")
            expect(notice).to_contain_text("does not know: cat, sofa")
            expect(notice).to_contain_text("knows any prompt and runs here without a GPU")
        phone = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
        with rehearsal.step(who, "opens it on a phone, and generates", clicks=3):
            phone.goto(_link(url, key))
            phone.locator(PROMPT_FIELD).fill(PROMPT)
            _generate(phone)


def designer(rehearsal: Rehearsal, url: str, key: str) -> None:
    """Makes a picture, paints a mask on it, has that part made anew, and compares both."""
    who = "designer"
    rehearsal.read(who, "README.md")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(_link(url, key))
        with rehearsal.step(who, "makes a picture", clicks=2):
            page.locator(PROMPT_FIELD).fill(PROMPT)
            _generate(page)
        with rehearsal.step(who, "uses it as the input of another model", clicks=2):
            page.locator(".sheet").first.get_by_role("button", name="Use as input").click()
            menu = page.get_by_role("dialog")
            menu.get_by_role("button", name=re.compile("inpainting.*Image", re.DOTALL)).click()
            expect(page.locator(".media-preview img").first).to_be_visible()
        with rehearsal.step(who, "paints a mask and generates", clicks=4):
            page.get_by_role("button", name="Paint a mask").click()
            _stroke(page)
            page.get_by_role("button", name="Use mask").click()
            expect(page.get_by_role("dialog")).to_be_hidden()
            page.locator(PROMPT_FIELD).fill(OTHER)
            _generate(page)
        with rehearsal.step(who, "compares both in the gallery", clicks=4):
            page.get_by_role("link", name="Gallery").click()
            for words in (OTHER, PROMPT):
                page.get_by_role("checkbox", name=f"Select {words}", exact=True).first.click()
            page.get_by_role("button", name="Compare").click()
            compared = page.get_by_role("dialog", name="Comparison").get_by_role("img")
            expect(compared).to_have_count(2)


def _stroke(page: Page) -> None:
    """Paint over the lower half of the image."""
    canvas = page.locator(".paint")
    expect(canvas).to_be_visible()
    at = canvas.bounding_box()
    assert at is not None
    page.mouse.move(at["x"] + at["width"] * 0.2, at["y"] + at["height"] * 0.75)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] * 0.8, at["y"] + at["height"] * 0.75, steps=5)
    page.mouse.up()


def _generate(page: Page) -> None:
    expect(page.locator(".sheet").first).to_be_visible()  # the latest result, of the start at least
    before = page.locator(".sheet").count()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".sheet")).to_have_count(before + 1)
    expect(page.locator(".sheet").first).to_have_attribute("data-phase", "succeeded")
