"""The task pages use the reader's words: docs/reference/glossary.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, name

PAGES = (
    ROOT / "README.md",
    DOCS / "index.md",
    *sorted((DOCS / "tutorials").glob("*.md")),
    *sorted((DOCS / "how-to").glob("*.md")),
    *sorted((ROOT / "deployments" / "demo").glob("*/README.md")),
)
INSTEAD = {
    "image": ("picture", "pictures"),
    "video": ("clip", "clips"),
    "audio": ("sound", "sounds"),
    "gateway": ("entrance",),
    "notify, report": ("told", "tell", "tells"),
    "anyone, no one": ("whoever", "nobody", "whom"),
    "plain English": ("likewise", "thereof", "anew", "as yet", "of which", "by which", "for which"),
}
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`|\]\([^)]*\)", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_uses_the_words_of_the_glossary(page: Path) -> None:
    # CLIP is a model.
    text = CODE.sub("", page.read_text()).replace("CLIP", "")
    wrong_words = {
        old: new
        for new, words in INSTEAD.items()
        for old in words
        if re.search(rf"\b{old}\b", text, re.I)
    }
    assert wrong_words == {}
