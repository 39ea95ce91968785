"""Actions of a user in the gallery."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.page.darkroom import PageDarkroom
from tests.page.reader import Reader


class Gallery:
    """User that finds results by the words of their prompts."""

    def __init__(self, page: Page, darkroom: PageDarkroom) -> None:
        self.page = page
        self.darkroom = darkroom

    def open(self, address: str = "view=gallery") -> None:
        self.page.goto(f"{self.darkroom.url}/#{address}")
        key = self.page.get_by_label("API key", exact=True)
        if key.is_visible():
            Reader(self.page, self.darkroom).give_key(self.darkroom.key)
        expect(self.page.get_by_role("grid", name="Results")).to_be_attached()

    def result(self, words: str) -> Locator:
        return self.page.get_by_role("gridcell").filter(
            has=self.page.get_by_role("link", name=words, exact=True)
        )

    def link(self, words: str) -> Locator:
        return self.page.get_by_role("link", name=words, exact=True)

    @property
    def results(self) -> Locator:
        return self.page.locator(".tile")

    @property
    def selected_tiles(self) -> Locator:
        return self.page.locator('.tile[aria-selected="true"]')
