"""Page of a real Darkroom: HAProxy, Ray Serve, PostgreSQL, the engine and the demo model."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.cluster.darkroom import Darkroom
from tests.page.reader import Reader, expect_images

pytestmark = pytest.mark.cluster


def test_a_prompt_becomes_an_image(page: Page, darkroom: Darkroom) -> None:
    darkroom.all_ready()
    reader = Reader(page, darkroom)
    reader.enter()
    sheet = reader.generate("a cyan heart")
    expect(sheet).to_have_attribute("data-phase", "succeeded", timeout=120_000)
    expect_images(sheet, 1)
    expect(sheet.get_by_text("demo model")).to_be_visible()
    expect(reader.request_rows.first).to_contain_text("a cyan heart")
