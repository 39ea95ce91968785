"""What a page points at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.settings import setting_names
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, inline, links, name

OURS = re.compile(
    r"(?:\.ci|benchmarks|deployments|docs|scripts|serve_app|tests|training|weights)/[\w./-]+"
)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken: list[str] = []
    for link in links(page):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.exists() and (not anchor or anchor in anchors(target))
        if not is_there:
            broken.append(link)
    assert broken == []


@pytest.mark.variants(48)
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    # A sentence may end after the name, or name one below it.
    named = [match for piece in inline(page) if (match := OURS.match(piece))]
    assert [mention[0] for mention in named if not (ROOT / mention[0].rstrip(".")).exists()] == []


@pytest.mark.variants(60)
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_that_is_named_is_one(page: Path) -> None:
    named = set(re.findall(r"DARKROOM_[A-Z0-9_]*[A-Z0-9]", page.read_text()))
    assert named - setting_names() == set()


def test_every_decision_is_in_its_index() -> None:
    index = {(DOCS / "adr" / link).resolve() for link in links(DOCS / "adr" / "README.md")}
    assert set((DOCS / "adr").glob("0*.md")) == index
