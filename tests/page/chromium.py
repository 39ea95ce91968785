"""The Chromium of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

# The headless shell first: Chromium builds its own windows also where none is shown, which triples
# the CPU time of each page.
NAMES = (
    *("chromium-headless-shell", "chromium", "chromium-browser"),
    *("google-chrome", "google-chrome-stable"),
)
NONE = (
    "There is no Chromium. On Debian: apt-get update && apt-get install -y chromium-headless-shell "
    "(scripts/test does so when it runs as root)."
)


def chromium_program() -> str | None:
    """Path of a Chromium on this machine, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start it, or skip the test. Until the end, no other event loop can run in this thread."""
    program = chromium_program()
    if program is None:
        pytest.skip(NONE)
    arguments = [
        "--no-sandbox",  # needs privileges that a container does not have
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--disable-gpu",  # there is none; one that is imitated takes a fifth more CPU time
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
