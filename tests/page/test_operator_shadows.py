"""Operator's view of requests beside their copies at a shadow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Page, expect

from serve_app.catalog.catalog import Catalog, load
from tests.ingress.house import DEMO, MODELS
from tests.page.axe import axe
from tests.page.darkroom import PageDarkroom, page_darkroom
from tests.page.operator import Operator, give_pool
from tests.page.reader import FLUX

pytestmark = pytest.mark.long

SHADOW = "house/shadow"
WITHIN_S = 60.0


def catalog(folder: Path) -> Catalog:
    """The usual models, and one that is the shadow of the first."""
    source = yaml.safe_load(MODELS.read_text())
    flux = source["endpoints"][FLUX]
    source["endpoints"][SHADOW] = flux
    source["endpoints"][FLUX] = flux | {"shadow": {"endpoint": SHADOW, "share": 1}}
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(source))
    return load(path, demo=True, demo_dir=DEMO)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[PageDarkroom]:
    with page_darkroom(catalog=catalog(tmp_path)) as darkroom:
        yield darkroom


def generate_and_copy(darkroom: PageDarkroom, prompt: str) -> None:
    """Submit a request, copy it, and wait until both have ended."""
    headers = {"Authorization": f"Key {darkroom.key}"}
    with httpx.Client(base_url=darkroom.url, headers=headers, timeout=20) as client:
        answer = client.post(f"/queue/{FLUX}", json={"prompt": prompt})
        assert answer.status_code == 200, answer.text
        darkroom.copy_requests()
        end = time.monotonic() + WITHIN_S
        while time.monotonic() < end:
            (pair,) = client.get("/v1/shadows").json()["pairs"]
            sides = pair["original"], pair["copy"]
            if all(side and side["finished_at"] for side in sides):
                return
            darkroom.copy_requests()
    raise AssertionError(pair)


def test_requests_are_shown_beside_their_copies(page: Page, installation: PageDarkroom) -> None:
    give_pool(installation)
    generate_and_copy(installation, "a lighthouse")
    operator = Operator(page, installation)
    operator.open("Shadows")
    pair = operator.row("Side by side", "a lighthouse")
    for words in (FLUX, SHADOW, "Done"):
        expect(pair).to_contain_text(words)
    expect(pair.get_by_role("img")).to_have_count(2)
    sums = operator.row("Last day", SHADOW)
    expect(sums).to_contain_text("median")
    assert axe(page) == []


def test_a_failed_copy_says_why(page: Page, installation: PageDarkroom) -> None:
    give_pool(installation)
    generate_and_copy(installation, "fail")
    operator = Operator(page, installation)
    operator.open("Shadows")
    pair = operator.row("Side by side", SHADOW)
    expect(pair.locator(".problem")).to_have_count(2)
    expect(pair).to_contain_text("Failed")


def test_an_installation_without_shadows_says_so(page: Page, installation: PageDarkroom) -> None:
    give_pool(installation)
    operator = Operator(page, installation)
    operator.open("Shadows")
    expect(page.get_by_text("No request was copied.")).to_be_visible()
