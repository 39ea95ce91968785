"""The page of the docs with the results of the public examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tests.deployments.executors.examples.finding import RESULTS, Finding

HEAD = """\
# Public examples of fal and Cog

Apps of fal's public repositories, and Cog's own test predictors and examples, read by Darkroom as
`darkroom deploy` reads them. `scripts/executor_examples` takes checkouts of these repositories and
generates this page; the examples are no part of Darkroom.

| result | meaning |
| --- | --- |
| served | A replica ran it on a CPU. Of a test of Cog, each prediction gave what \
the test expects. Where a test makes none, and of an app for fal, an input made from its schema \
was answered; *Sessions at* names the routes of which a session did that. |
| different | A replica ran it, and something was not as its test expects, or no \
endpoint answered. |
| described | Its endpoints and schemas were read. It was not run, because it \
needs a GPU or large packages, or an input made from its schema was not answered. |
| refused | Darkroom refuses it with this sentence. |
| not read | Its import needs packages that were not installed for this page. |

Requirements were installed if they are small. Otherwise the example was imported beside the
packages of Darkroom's tests, which have torch and diffusers for a CPU; so was a file that imports
packages which it does not list. *Set elsewhere* names settings of an app for fal that have another
place in Darkroom ([which](../how-to/serve-a-fal-app.md)). Metrics and logs of Cog's
answers are not compared, and the storage of these runs takes files of 1 MB.
"""

COLUMNS = ("| example | uses | result | what came out |", "| --- | --- | --- | --- |")


def page(sections: Mapping[str, Sequence[Finding]], absent: Mapping[str, int]) -> str:
    """Page with one table for each repository. ``absent``: repository → tests without a project."""
    parts = [HEAD]
    for name, findings in sections.items():
        counts = Counter(finding.result for finding in findings)
        told = ", ".join(f"{counts[result]} {result}" for result in RESULTS if counts[result])
        parts.append(
            f"## {name}\n\n{len(findings)} examples: {told or 'none'}.{_absent(absent, name)}\n"
        )
        if findings:
            rows = [_row(finding) for finding in findings]
            table = [
                "| example | uses | result | what came out |",
                "| --- | --- | --- | --- |",
                *rows,
            ]
            parts.append("\n".join(table) + "\n")
    return "\n".join(parts)


def _absent(absent: Mapping[str, int], name: str) -> str:
    count = absent.get(name, 0)
    return f" {count} tests without a `cog.yaml` are left out." if count else ""


def _row(finding: Finding) -> str:
    uses = ", ".join(f"`{use}`" if " " not in use else use for use in finding.uses)
    cells = (f"`{finding.example}`", uses, finding.result, finding.why)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|").replace("<", "&lt;").replace("{{", "{ {")
    return escaped.replace("[", "\\[") if "](" in escaped else escaped
