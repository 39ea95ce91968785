"""The project's pages, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BESIDE_THE_CODE = tuple(
    ROOT / folder / "README.md"
    for folder in (
        "benchmarks",
        "benchmarks/fleet",
        "deployments/executors",
        "deployments/tuning",
        "serve_app/ingress/submission",
        "serve_app/jobs",
        "serve_app/queue",
        "serve_app/resources",
        "tests/architecture",
        "tests/attacks",
        "tests/bad_days",
        "tests/crash",
        "tests/deployments/executors/examples",
        "tests/engine/conformance",
        "tests/engine/lora",
        "tests/operations",
        "tests/wire",
    )
)
"""Pages for those who change Darkroom, and records of runs. They are no part of the site."""
PAGES = tuple(
    sorted(
        [
            ROOT / "README.md",
            ROOT / "CONTRIBUTING.md",
            ROOT / "CHANGELOG.md",
            ROOT / "THIRD-PARTY.md",
            *BESIDE_THE_CODE,
            *DOCS.rglob("*.md"),
        ]
    )
)

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_FENCES = re.compile(r"(?:^ *<!-- (?P<mark>[^\n]+?) -->\n)?" + _FENCE.pattern, re.M | re.S)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?:(?: {4}.*)?\n)*(?: {4}.+\n)+", re.M)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block of code. ``mark`` is the comment right before it: how it is tested."""

    page: Path
    language: str
    text: str
    mark: str = ""

    def __str__(self) -> str:
        first = self.text.splitlines()[0] if self.text else ""
        return f"{self.page.name}:{first}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def all_blocks(page: Path) -> list[Block]:
    """Every fenced block, in the order of the page."""
    return [
        Block(page, match["language"], dedent(match["text"]), match["mark"] or "")
        for match in _FENCES.finditer(page.read_text())
    ]


def blocks(page: Path, language: str) -> list[Block]:
    return [candidate for candidate in all_blocks(page) if candidate.language == language]


def block(page: Path, language: str) -> str:
    """The only one of its language."""
    (only,) = blocks(page, language)
    return only.text


def fence_lines(page: Path) -> int:
    """Lines that open or close a fenced block, counted apart from ``all_blocks``."""
    return sum(line.lstrip().startswith("```") for line in page.read_text().splitlines())


def indented_blocks(page: Path) -> list[str]:
    """Blocks of shell commands that are indented by four spaces."""
    return [
        "\n".join(line[4:] for line in passage.strip("\n").splitlines())
        for passage in _INDENTED.findall(_FENCE.sub("", page.read_text()))
    ]


def inline(page: Path) -> list[str]:
    return _INLINE.findall(_FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(_FENCE.sub("", page.read_text()))
    }


def table(page: Path, first_column: str) -> list[list[str]]:
    """The rows of the only table whose first heading is that."""
    lines = page.read_text().splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    rows: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return _INLINE.findall(cell)


def matrix() -> list[str]:
    """The tests of the crash matrix, by pytest's names for them."""
    return _crashes("fault")


def what_goes_on() -> list[str]:
    """Those of generations whose replica is killed."""
    return _crashes("what is killed")


def _crashes(first_column: str) -> list[str]:
    rows = table(ROOT / "tests" / "crash" / "README.md", first_column)
    return [test for *_, tests in rows for test in code(tests)]
