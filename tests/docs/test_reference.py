"""The generated pages of the reference say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import name
from tests.docs.reference.__main__ import pages

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    assert page.read_text() == PAGES[page], "Run scripts/reference."
