"""Accessibility of the view that a page shows: axe-core in the browser, and checks of our own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from playwright.sync_api import Page

from tests.node import packages

FOLDER = Path(__file__).with_name("javascript")

_FAINT = Path(__file__).with_name("faint.js").read_text()
_NAMELESS = Path(__file__).with_name("nameless.js").read_text()

STANDARDS = (
    *("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"),
    "best-practice",
)
RUN = """async (standards) => {
  const found = await axe.run(document, {
    runOnly: { type: "tag", values: standards },
    rules: { "target-size": { enabled: true } }, // of WCAG 2.2: not run unless it is named
    resultTypes: ["violations"],
  });
  return found.violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ target, failureSummary }) =>
      `${id}: ${help}: ${target.join(" ")}: ${failureSummary.replace(/\\s+/g, " ")}`));
}"""


def look(page: Page) -> None:
    """Check that everything on the page can be read, in both themes, has a name, and fits."""
    assert page.evaluate(_NAMELESS) == []
    assert axe(page) == []
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        assert page.evaluate(_FAINT) == [], theme
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def axe(page: Page) -> list[str]:
    """Violations in what the page shows now, one line for each element. Skips without axe-core."""
    source = _source()
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(source)  # not as a script element, which the page's policy forbids
    return list(page.evaluate(RUN, STANDARDS))


@cache
def _source() -> str:
    return (packages(FOLDER) / "axe-core" / "axe.min.js").read_text()
