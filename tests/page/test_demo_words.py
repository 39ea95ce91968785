"""What the page says about the words of a demo model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from serve_app.catalog.catalog import load
from tests.page.darkroom import page_darkroom
from tests.page.reader import FLUX, Reader

DEMO = Path(__file__).parents[2] / "deployments" / "demo"


@pytest.fixture
def demo(page: Page) -> Iterator[Reader]:
    catalog = load(None, demo=True, demo_dir=DEMO, families=("flux",))
    with page_darkroom(painting=False, catalog=catalog) as darkroom:
        reader = Reader(page, darkroom)
        reader.enter(FLUX)
        yield reader


def test_words_that_the_demo_does_not_know_are_named_as_one_types(demo: Reader) -> None:
    line = demo.page.locator(".unknown-words")
    demo.field("prompt").press_sequentially("a red cat")
    expect(line).to_have_text("The demo model does not know: cat.")
    demo.field("prompt").fill("a red star")
    expect(line).to_be_empty()


@pytest.mark.long
def test_six_prompts_to_click_are_shown_and_the_demo_knows_all_their_words(demo: Reader) -> None:
    examples = demo.page.locator("#empty .examples button")
    expect(examples).to_have_count(6)
    expect(demo.page.locator("#examples")).to_be_hidden()  # they are shown once
    for example in examples.all():
        example.click()
        expect(demo.field("prompt")).to_have_value(example.inner_text())
        expect(demo.page.locator(".unknown-words")).to_be_empty()


def test_examples_and_cards_show_what_the_demo_made(demo: Reader) -> None:
    page = demo.page
    images = page.locator("#empty .example img")
    expect(images).to_have_count(6)
    for image in images.all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("each => each.decode().then(() => each.naturalWidth)") == 256
    page.get_by_role("link", name="Models").click()
    card = page.locator(f'.card[data-id="{FLUX}"]')
    cover = card.locator(".cover img")
    expect(cover).to_have_attribute("src", re.compile("/page/examples/flux-1.webp$"))
    changed = page.locator('.card[data-id="fal-ai/flux/dev/image-to-image"]')
    expect(changed.locator(".plate")).to_be_visible()  # it changes images that it does not have
    card.get_by_role("link").click()
    expect(page.locator(".samples img")).to_have_count(6)


@pytest.mark.long
def test_the_words_that_the_demo_knows_can_be_read(demo: Reader) -> None:
    demo.page.get_by_text("Words that it knows").click()
    expect(demo.page.locator("#demo-words")).to_contain_text("turquoise")
