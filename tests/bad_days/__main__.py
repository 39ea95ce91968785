"""Bad days as a matrix: each part of a cluster killed, frozen or cut off under load. Run by
``scripts/bad_days``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.bad_days.day import Result, day
from tests.bad_days.installation import installation
from tests.bad_days.rows import ROWS

COLUMNS = (
    "part", "fault", "accepted", "lost", "failed", "ended twice", "billed twice",
    "longest without an accepted submit", "slowest submit", "whole again after", "other answers",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="Rows, such as ingress-freeze.")
    parser.add_argument("--seconds", type=float, default=60.0, help="How long each fault lasts.")
    parser.add_argument("--output", type=Path, help="A folder for bad-days.md and bad-days.json.")
    asked = parser.parse_args()
    names = {row.name for row in ROWS}
    if unknown := set(asked.only or ()) - names:
        parser.error(f"no such rows: {sorted(unknown)}; there are {sorted(names)}")
    folder = asked.output or Path(tempfile.mkdtemp(prefix="bad-days-"))
    folder.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="bad-days-") as scratch,
        installation(Path(scratch)) as place,
    ):
        for row in ROWS:
            if asked.only and row.name not in asked.only:
                continue
            results.append(day(place, row, asked.seconds))
            print(json.dumps(results[-1].as_json()), flush=True)  # noqa: T201
            write(folder, results)
            if results[-1].whole_after_s is None:
                break  # what is left of it would spoil the next row
    print((folder / "bad-days.md").read_text())  # noqa: T201
    return int(not all(result.good for result in results))


def write(folder: Path, results: Sequence[Result]) -> None:
    today = datetime.now(UTC).date().isoformat()
    command = " ".join(["scripts/bad_days", *sys.argv[1:]])
    document = {"date": today, "command": command, "rows": [each.as_json() for each in results]}
    (folder / "bad-days.json").write_text(json.dumps(document, indent=2))
    lines = [f"{today}, `{command}`", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    (folder / "bad-days.md").write_text("\n".join([*lines, *map(_row, results)]) + "\n")


def _row(result: Result) -> str:
    whole = "never" if result.whole_after_s is None else f"{result.whole_after_s} s"
    answers = ", ".join(f"{count} × {name}" for name, count in sorted(result.answers.items()))
    return _line(
        [
            *(result.part, f"{result.how}, {result.seconds:.0f} s", result.accepted, result.lost),
            *(result.failed, result.ended_twice, result.billed_twice),
            *(f"{result.longest_gap_s} s", f"{result.slowest_submit_s} s", whole, answers or "–"),
        ]
    )


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
