"""The documentation site has every page. `scripts/docs` builds it; that takes its own packages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from scripts.docs_hooks import github_slug, on_page_content, on_page_markdown
from tests.docs.pages import DOCS, ROOT, name

CONFIGURATION = ROOT / "mkdocs.yml"
INSTALLED = ROOT / "build" / "docs-venv" / "installed"
PROGRAM = INSTALLED.parent / "bin" / "mkdocs"


class _Loader(yaml.SafeLoader):
    """Reads the names of Python functions as text."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda _, suffix, __: suffix)


def configuration() -> dict[str, Any]:
    return dict(yaml.load(CONFIGURATION.read_text(), _Loader))  # noqa: S506 our own file


def pages_of(navigation: Any) -> Iterator[str]:
    for entry in navigation:
        for value in entry.values() if isinstance(entry, dict) else (entry,):
            if isinstance(value, str):
                yield value
            else:
                yield from pages_of(value)


def test_every_page_is_in_the_navigation() -> None:
    listed = list(pages_of(configuration()["nav"]))
    assert len(listed) == len(set(listed))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    decisions = {path for path in there if path.startswith("adr/")}
    assert set(listed) == there - decisions


def test_every_how_to_is_in_its_index() -> None:
    index = (DOCS / "how-to" / "index.md").read_text()
    missing = [
        page.name
        for page in (DOCS / "how-to").glob("*.md")
        if page.name != "index.md" and f"]({page.name})" not in index
    ]
    assert missing == []


def test_the_site_loads_nothing_from_elsewhere() -> None:
    written = configuration()
    assert written["theme"]["font"] is False
    assert not any(key in written for key in ("extra_javascript", "extra_css"))
    assert written["plugins"] == ["search"]  # `offline` and `privacy` fetch from other hosts


def test_anchors_are_those_of_github() -> None:
    assert github_slug("fal's JavaScript client", "-") == "fals-javascript-client"
    assert github_slug("Limits, keys", "-") == "limits-keys"


class _Page:
    class file:  # noqa: N801 as MkDocs has it
        src_uri = "how-to/a.md"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[b](b.md#c)", "[b](b.md#c)"),
        ("[b](../index.md)", "[b](../index.md)"),
        ("[the file](../../compose.yaml)", "the file (`compose.yaml`)"),
        ("[`compose.yaml`](../../compose.yaml)", "`compose.yaml`"),
        ("![x](../images/x.png)", "![x](../images/x.png)"),
        ("[x](https://example.org/)", "[x](https://example.org/)"),
        ("```text\n[b](../../c)\n```\n", "```text\n[b](../../c)\n```\n"),
    ],
)
def test_links_out_of_the_docs_become_names(written: str, shown: str) -> None:
    assert on_page_markdown(written, page=_Page) == shown


@pytest.mark.parametrize(("path", "excluded"), [("adr/0001-a.md", True), ("how-to/a.md", False)])
def test_decisions_are_left_out_of_the_search(path: str, excluded: bool) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri=path), meta={})
    assert on_page_content("<p>", page=page) == "<p>"
    assert (page.meta.get("search") == {"exclude": True}) is excluded


@pytest.mark.long  # scripts/test builds it in each run (scripts/docs)
def test_the_site_builds(tmp_path: Path) -> None:
    if not INSTALLED.exists():
        pytest.skip(f"{name(INSTALLED)} is not there; scripts/docs installs the packages")
    done = subprocess.run(
        [PROGRAM, "build", "--site-dir", tmp_path],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "scripts"), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "index.html").read_text()
    assert "adr/" not in (tmp_path / "search" / "search_index.json").read_text()
    assert re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=.?(https?://[^\s>]+)""", html) == []
