"""Actions of a user on the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, Response, Route, expect

from tests.cluster.darkroom import Darkroom
from tests.page.darkroom import PageDarkroom

FLUX = "fal-ai/flux/schnell"
PROBE = "test/probe"

CONTROLS = "input, select, textarea, button"
TRIAL = ".trial"  # form on the page of a model


class Reader:
    """User that finds elements by their labels, like a person or a screen reader."""

    def __init__(self, page: Page, darkroom: PageDarkroom | Darkroom) -> None:
        self.page = page
        self.darkroom = darkroom

    def enter(self, model: str = FLUX) -> None:
        self.page.goto(f"{self.darkroom.url}/#model={model}")
        self.give_key(self.darkroom.key)
        expect(self.page.get_by_role("button", name="Generate")).to_be_visible()
        self.choose(model)

    def give_key(self, key: str) -> None:
        self.page.get_by_label("API key", exact=True).fill(key)
        self.page.get_by_role("button", name="Open").click()

    def choose(self, model: str) -> None:
        self.page.get_by_label("Model", exact=True).select_option(model)
        expect(self.page.locator("#model-about")).to_contain_text(model)

    def field(self, name: str) -> Locator:
        """Control of an input field, by its name in the schema."""
        return self.page.locator(f'[id^="field-{name}-"]:is({CONTROLS}):not({TRIAL} *)')

    def problem_of(self, name: str) -> Locator:
        return self.page.locator(f'[id^="field-{name}-"][id$="-problem"]:not({TRIAL} *)')

    def unfold(self) -> None:
        self.page.locator("#more").get_by_text("More settings").click()

    def generate(self, prompt: str, **fields: Any) -> Locator:
        """Fill in the form and submit it; returns the new card as soon as it appears."""
        self.field("prompt").fill(prompt)
        for name, value in fields.items():
            self.field(name).fill(str(value))
        # By its id: an empty stage may show the latest result of an earlier time meanwhile.
        with self.page.expect_response(_accepted) as accepted:
            self.page.get_by_role("button", name="Generate").click()
        card = self.page.locator(f'.sheet[data-request="{accepted.value.json()["request_id"]}"]')
        expect(card).to_be_visible()
        return card

    def change_output(self, request_id: str, change: Callable[[Any], Any]) -> None:
        """Have the page read another output of an ended request, in each call that has it."""

        def answer(route: Route) -> None:
            response = route.fetch()
            if "/status" not in route.request.url:
                route.fulfill(response=response, json=change(response.json()))
                return
            text = response.text()
            is_stream = text.startswith("data: ")
            status = json.loads(text.removeprefix("data: "))
            status["result"]["body"] = change(status["result"]["body"])
            body = json.dumps(status)
            route.fulfill(response=response, body=f"data: {body}\n\n" if is_stream else body)

        path = re.compile(rf"/queue/.*/requests/{request_id}(/status(/stream)?\?.*)?$")
        self.page.route(path, answer)

    @property
    def sheets(self) -> Locator:
        return self.page.locator(".sheet")

    @property
    def request_rows(self) -> Locator:
        """Rows of the list of requests."""
        return self.page.locator("#requests li[data-request]")


def _accepted(response: Response) -> bool:
    return response.request.method == "POST" and "/queue/" in response.url and response.ok


def box_of(element: Locator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an element in the window, in CSS pixels."""
    box = element.bounding_box()
    assert box is not None
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def select_past(dialog: Locator, text: Locator) -> None:
    """Press in a text of a dialog, and release beside the dialog, as one who selects to the end."""
    page = dialog.page
    left, top, _, bottom = box_of(text)
    beyond, *_ = box_of(dialog)
    page.mouse.move(left + 20, (top + bottom) / 2)
    page.mouse.down()
    page.mouse.move(beyond - 30, (top + bottom) / 2)
    page.mouse.up()


def expect_phase(sheet: Locator, phase: str) -> None:
    expect(sheet).to_have_attribute("data-phase", phase)


def expect_images(sheet: Locator, count: int) -> None:
    """Check that the browser has loaded and decoded this many images."""
    expect_phase(sheet, "succeeded")
    images = sheet.locator("img")
    expect(images).to_have_count(count)
    for image in images.all():
        image.evaluate("image => image.decode()")
        assert image.evaluate("image => image.naturalWidth") > 0


def expect_said(page: Page, words: str) -> None:
    """Check that words are seen in front of all else, where screen readers hear them too."""
    toast = page.locator(".toast")
    expect(toast).to_contain_text(words)
    on_top = """toast => {
        const { left, top, width, height } = toast.getBoundingClientRect();
        return toast.contains(document.elementFromPoint(left + width / 2, top + height / 2));
    }"""
    assert toast.evaluate(on_top)
    expect(page.locator("#announcer")).to_contain_text(words)
    beside = "each => each.parentElement === document.querySelector('.toast').parentElement"
    assert page.locator("#announcer").evaluate(beside)
