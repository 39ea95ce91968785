"""What CONTRIBUTING.md says that no tool of ``scripts/check`` looks at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import ROOT

OURS = "benchmarks", "deployments", "scripts", "serve_app", "tests", "training", "weights"
MOST_LINES = 500


def python_files() -> Iterator[Path]:
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            if "node_modules" not in path.parts:
                yield path


def test_no_python_file_is_so_long_that_it_must_be_about_several_things() -> None:
    lines = {path: len(path.read_bytes().splitlines()) for path in python_files()}
    assert len(lines) > len(OURS)
    too_long = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > MOST_LINES}
    assert not too_long, "Split them by subject: CONTRIBUTING.md."
