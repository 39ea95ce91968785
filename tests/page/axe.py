"""axe-core in the browser: what it finds in the view that a page shows."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from playwright.sync_api import Page

from tests.node import packages

FOLDER = Path(__file__).with_name("javascript")

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


def axe(page: Page) -> list[str]:
    """Violations in what the page shows now, one line for each element. Skips without axe-core."""
    source = _source()
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(source)  # not as a script element, which the page's policy forbids
    return list(page.evaluate(RUN, STANDARDS))


@cache
def _source() -> str:
    return (packages(FOLDER) / "axe-core" / "axe.min.js").read_text()
