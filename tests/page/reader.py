"""What somebody does on the page."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.cluster.darkroom import Darkroom
from tests.page.darkroom import PageDarkroom

FLUX = "fal-ai/flux/schnell"
PROBE = "test/probe"


class Reader:
    """Finds things by what they are called, as a person or a screen reader does."""

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
        """The control of an input's field, by its name in the schema."""
        return self.page.locator(f'[id^="field-{name}-"]:is(input, select, textarea)')

    def problem_of(self, name: str) -> Locator:
        return self.page.locator(f'[id^="field-{name}-"][id$="-problem"]')

    def unfold(self) -> None:
        self.page.get_by_text("More settings").click()

    def generate(self, prompt: str, **fields: Any) -> Locator:
        """Fill in and submit; the new sheet, as soon as it is there."""
        self.field("prompt").fill(prompt)
        for name, value in fields.items():
            self.field(name).fill(str(value))
        before = self.sheets.count()
        self.page.get_by_role("button", name="Generate").click()
        expect(self.sheets).to_have_count(before + 1)
        newest = self.sheets.first.get_attribute("data-request")
        return self.page.locator(f'.sheet[data-request="{newest}"]')

    @property
    def sheets(self) -> Locator:
        return self.page.locator(".sheet")

    @property
    def listed(self) -> Locator:
        """The rows of the list of requests."""
        return self.page.locator("#requests li")


def expect_phase(sheet: Locator, phase: str) -> None:
    expect(sheet).to_have_attribute("data-phase", phase)


def expect_pictures(sheet: Locator, count: int) -> None:
    """So many pictures that the browser has loaded and decoded."""
    expect_phase(sheet, "succeeded")
    pictures = sheet.locator("img")
    expect(pictures).to_have_count(count)
    for picture in pictures.all():
        picture.evaluate("picture => picture.decode()")
        assert picture.evaluate("picture => picture.naturalWidth") > 0
