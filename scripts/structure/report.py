"""Report of the code's sizes and counts, beside their history.

    scripts/report           print the figures
    scripts/report --ways    also those of the three ways of a request, which takes a minute
    scripts/report --add     the same, and add them to the history

The history is ``history.csv``: a row for each time that somebody asked, with date and commit.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.structure.figures import figures
from scripts.structure.modules import ROOT

HISTORY = Path(__file__).with_name("history.csv")
SHOWN = 5
"""Rows of the history that are printed."""

Row = Mapping[str, str]


TRACE_S = 1100.0


def traced_ways(root: Path) -> dict[str, Any]:
    """The three ways of a request, as ``tests.architecture.paths`` prints them in a process of its
    own. ``RuntimeError``: it failed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.architecture.paths", "--json"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},  # noqa: TID251  the environment of a child
        capture_output=True,
        text=True,
        timeout=TRACE_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"The ways could not be traced:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ways(root: Path) -> dict[str, int]:
    """Modules on the three ways of a request, with and without those of which only short functions
    are called."""
    return {
        f"way {name}: modules{filtered}": len(way[key])
        for name, way in traced_ways(root).items()
        for filtered, key in (("", "all"), (" with functions of 4 lines", "modules"))
    }


def read(path: Path) -> list[Row]:
    """Rows of the history, the oldest first."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add(path: Path, row: Row) -> None:
    """Add a row to the history. A figure that older rows lack is empty in them."""
    rows = [*read(path), row]
    columns = dict.fromkeys(name for record in reversed(rows) for name in record)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[Row]) -> str:
    """The rows as columns, each beside the name of its figure."""
    names = dict.fromkeys(name for row in reversed(rows) for name in row)
    cells = [[name, *(row.get(name, "") for row in rows)] for name in names]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            [cell[0].ljust(widths[0])]
            + [text.rjust(width) for text, width in zip(cell[1:], widths[1:], strict=True)]
        )
        for cell in cells
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/report", description="Sizes and counts of the code."
    )
    parser.add_argument("--ways", action="store_true", help="trace the three ways of a request")
    parser.add_argument("--add", action="store_true", help="add the figures to the history")
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout to measure")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    counted = figures(root) | (ways(root) if options.ways or options.add else {})
    date, commit = _git(root, "log", "-1", "--format=%cs %h").split()
    changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    row = {
        "date": datetime.now(UTC).date().isoformat() if changed else date,
        "commit": f"{commit}+" if changed else commit,
        **{name: str(value) for name, value in counted.items()},
    }
    print(table([*read(HISTORY)[-SHOWN:], row]))
    if options.add:
        add(HISTORY, row)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(  # noqa: S603
        command, cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
