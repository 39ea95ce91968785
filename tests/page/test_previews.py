"""Previews of running requests."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.page.reader import Reader, expect_images


def test_a_preview_is_shown_while_it_develops_and_so_is_the_pace(reader: Reader) -> None:
    reader.unfold()
    sheet = reader.generate("a slow hill", num_inference_steps=12)
    preview = sheet.locator(".developing img")
    expect(preview).to_have_count(1)
    assert preview.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 24]
    first = preview.get_attribute("src")
    assert first is not None
    assert first.startswith("data:image/jpeg;base64,")
    expect(sheet).to_contain_text("1.0 steps/s")
    expect(sheet).to_contain_text("s left")
    expect(preview).not_to_have_attribute("src", first)  # a later preview replaces it
    expect_images(sheet, 1)
    expect(sheet.locator(".developing")).to_have_count(0)


@pytest.mark.long
def test_no_preview_is_made_for_a_hidden_page(reader: Reader) -> None:
    reader.page.evaluate(
        "Object.defineProperty(document, 'hidden', { get: () => true, configurable: true })"
    )
    sheet = reader.generate("a slow hill")
    expect_images(sheet, 1)
    assert reader.darkroom.previewed_ids() == []
