"""Fixtures: a real Chromium, driven by Playwright, and a Darkroom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.page.chromium import chromium
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.gallery import Gallery
from tests.page.reader import Reader

expect.set_options(timeout=30_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    # Only for this package: while Playwright runs, no other event loop can run in this thread.
    with chromium() as browser:
        yield browser


@pytest.fixture
def installation() -> Iterator[PageDarkroom]:
    """Ingress over fakes, with a replica that paints images."""
    with page_darkroom() as darkroom:
        yield darkroom


@pytest.fixture
def idle() -> Iterator[PageDarkroom]:
    """Ingress over fakes whose replica starts only on request of the test."""
    with page_darkroom(painting=False) as darkroom:
        yield darkroom


@pytest.fixture
def open_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Open a browser context with the test's options."""
    opened: list[BrowserContext] = []

    def open_one(**options: Any) -> BrowserContext:
        context = browser.new_context(**{"color_scheme": "dark", **options})
        opened.append(context)
        return context

    yield open_one
    for context in opened:
        context.unroute_all(behavior="ignoreErrors")
        context.close()


@pytest.fixture
def context(open_context: Callable[..., BrowserContext]) -> BrowserContext:
    return open_context(viewport={"width": 1280, "height": 900})


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Fail the test on errors in the page's own scripts."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda entry: (
            errors.append(entry.text) if "Content Security Policy" in entry.text else None
        ),
    )
    yield page
    assert errors == []


@pytest.fixture
def reader(page: Page, installation: PageDarkroom) -> Reader:
    """User who has opened the page with the key."""
    reader = Reader(page, installation)
    reader.enter()
    return reader


@pytest.fixture
def waiting(page: Page, idle: PageDarkroom) -> Reader:
    """User of a Darkroom without a replica."""
    reader = Reader(page, idle)
    reader.enter()
    return reader


@pytest.fixture
def gallery(page: Page, idle: PageDarkroom) -> Gallery:
    """Gallery of a Darkroom that makes nothing new until the test starts its replica."""
    return Gallery(page, idle)
