"""Tools that the page loads when they are first used: what they show can be read, and is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.page.axe import look
from tests.page.darkroom import PageDarkroom
from tests.page.painter import image
from tests.page.reader import Reader, expect_images
from tests.page.test_mask import PAINTS, open_dialog
from tests.page.test_reuse import PROMPT, endpoint, offer

LORA = {
    "type": "object",
    "required": ["path"],
    "properties": {
        "path": {"type": "string", "description": "A *.safetensors file."},
        "scale": {"type": "number", "minimum": -4, "maximum": 4, "default": 1},
    },
}
STYLES = endpoint(
    "styles", "text-to-image", loras={"type": "array", "items": LORA}, prompt_2=PROMPT
)


@pytest.fixture(params=[390, 1280])
def painter(
    request: pytest.FixtureRequest,
    open_context: Callable[..., BrowserContext],
    installation: PageDarkroom,
    tmp_path: Path,
) -> Reader:
    context = open_context(viewport={"width": request.param, "height": 844})
    reader = Reader(context.new_page(), installation)
    offer(reader.page, PAINTS, STYLES)
    reader.enter()
    (tmp_path / "hill.png").write_bytes(image(300, 200, 1, "image/png"))
    return reader


@pytest.mark.variants(1)
def test_every_tool_can_be_read_and_every_control_in_it_has_a_name(
    painter: Reader, tmp_path: Path
) -> None:
    page = painter.page

    def closed(name: str) -> None:
        dialog = page.get_by_role("dialog", name=name)
        expect(dialog).to_be_visible()
        look(page)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()

    expect_images(painter.generate("a hill"), 1)
    page.get_by_role("button", name="Use as input").click()
    expect(page.locator(".target").first).to_be_focused()
    closed("Use this image as input")
    page.get_by_role("button", name="Earlier prompts").click()
    closed("Earlier prompts")
    page.get_by_role("button", name="Grid", exact=True).click()
    closed("Grid")
    painter.choose("some/paints")
    page.get_by_label("Image: choose a file").set_input_files(tmp_path / "hill.png")
    open_dialog(painter)
    closed("Paint a mask")
    open_dialog(painter, "Crop")
    closed("Crop or extend")
    painter.choose("some/styles")
    page.get_by_role("button", name="Add LoRA").click()
    page.get_by_role("button", name="Choose a LoRA").click()
    expect(page.get_by_text("None yet.")).to_be_visible()
    closed("Choose a LoRA")


@pytest.mark.variants(1)
def test_a_browser_finds_nothing_wrong_with_the_manifest(painter: Reader) -> None:
    session = painter.page.context.new_cdp_session(painter.page)
    manifest: dict[str, Any] = session.send("Page.getAppManifest")
    assert manifest["errors"] == []
    assert manifest["url"] == f"{painter.darkroom.url}/page/manifest.webmanifest"
