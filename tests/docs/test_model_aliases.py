"""The names of models that the docs list are the ones that lead somewhere."""

from __future__ import annotations

import re

from serve_app.domain.endpoint import MODEL_ALIASES
from tests.docs.pages import DOCS

PAGE = (DOCS / "reference" / "openai.md").read_text()
ROW = re.compile(r"^\| (`[^|]+`) \| `([^`]+)` \|$", re.M)


def test_every_alias_is_in_the_table_with_its_endpoint() -> None:
    section = PAGE.partition("## Model names")[2].partition("\n## ")[0]
    documented = {
        name: endpoint
        for names, endpoint in ROW.findall(section)
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert documented == MODEL_ALIASES
