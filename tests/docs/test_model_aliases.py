"""The names of models that the docs list are the ones that lead somewhere."""

from __future__ import annotations

import re

from serve_app.catalog.catalog import load
from serve_app.catalog.suggestions import APPS
from serve_app.domain.endpoint import MODEL_ALIASES
from tests.docs.pages import DOCS, ROOT

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


def test_every_alias_leads_to_a_built_in_endpoint_or_an_app_that_comes_along() -> None:
    catalog = load(None, demo=False, demo_dir=ROOT / "deployments" / "demo")
    assert set(MODEL_ALIASES.values()) <= {entry.endpoint.id for entry in catalog} | APPS.keys()
