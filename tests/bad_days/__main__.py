"""Bad days as a matrix: each part of a cluster killed, frozen or cut off under load. Run by
``scripts/bad_days``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from tests.bad_days.alerts import Alert
from tests.bad_days.alerts import available as prometheus_available
from tests.bad_days.day import Result, day, everything
from tests.bad_days.installation import installation
from tests.bad_days.rows import ROWS
from tests.cluster import network

COLUMNS = (
    "part", "fault", "accepted", "lost", "failed", "ended twice", "billed twice",
    "attempts interrupted", "attempts counted as failures", "longest without an accepted submit",
    "slowest submit", "whole again after", "new processes", "answers to repeat", "alerts", "date",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="Rows, such as ingress-freeze.")
    parser.add_argument("--seconds", type=float, default=60.0, help="How long each fault lasts.")
    parser.add_argument(
        "--everything",
        nargs="?",
        type=float,
        const=20.0,
        metavar="MINUTES",
        help="Instead of each row, faults of all rows at random, one or two at once. Default: 20.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the choice of these faults.")
    parser.add_argument(
        "--output",
        type=Path,
        help="A folder for bad-days.md and bad-days.json. Rows of an earlier run stay in them.",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is frozen goes on and is ended
    rows = {row.name: row for row in ROWS}
    if unknown := set(options.only or ()) - rows.keys():
        parser.error(f"no such rows: {sorted(unknown)}; there are {sorted(rows)}")
    bridged = network.isolate()
    chosen = [rows[name] for name in options.only or rows]
    left = [row for row in chosen if bridged or not row.bridged]
    if skipped := [row.name for row in chosen if row not in left]:
        print(f"Skipped, as this machine permits no network namespaces: {skipped}")  # noqa: T201
    folder = options.output or Path(tempfile.mkdtemp(prefix="bad-days-"))
    folder.mkdir(parents=True, exist_ok=True)
    results = earlier(folder)
    alerts = bridged and prometheus_available()
    random = Random(options.seed)  # noqa: S311 which faults happen
    while left:
        with (
            tempfile.TemporaryDirectory(prefix="bad-days-") as scratch,
            installation(Path(scratch), bridged=bridged) as place,
        ):
            while left:
                if options.everything is None:
                    result = day(place, left.pop(0), options.seconds, alerts=alerts)
                else:
                    result = everything(place, left, options.everything * 60, random)
                    left = []
                results[result.name] = result
                print(json.dumps(asdict(result)), flush=True)  # noqa: T201
                write(folder, [results[name] for name in (*rows, "everything") if name in results])
                if result.whole_after_s is None:
                    break  # what is left of it would spoil the next row
    print((folder / "bad-days.md").read_text())  # noqa: T201
    return int(not all(result.good for result in results.values()))


def earlier(folder: Path) -> dict[str, Result]:
    file = folder / "bad-days.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    return {row["name"]: _result(row) for row in rows}


def _result(row: dict[str, Any]) -> Result:
    if row["alerts"] is not None:
        row["alerts"] = tuple(Alert(**alert) for alert in row["alerts"])
    row["problems"] = tuple(row["problems"])
    return Result(**row)


def write(folder: Path, results: Sequence[Result]) -> None:
    (folder / "bad-days.json").write_text(
        json.dumps([asdict(result) for result in results], indent=2)
    )
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_row, results)]
    (folder / "bad-days.md").write_text("\n".join(lines) + "\n")


def _row(result: Result) -> str:
    whole = "never" if result.whole_after_s is None else f"{result.whole_after_s:.0f} s"
    new = {"replica": result.new_replicas, "ingress": result.new_ingresses}
    return _line(
        [
            *(result.part, f"{result.how}, {result.seconds:.0f} s", result.accepted, result.lost),
            *(result.failed, result.ended_twice, result.billed_twice),
            *(result.interrupted, result.failures),
            *(f"{result.longest_gap_s:.0f} s", f"{result.slowest_submit_s:.0f} s", whole),
            *(_counts(new), _counts(result.answers), _alerts(result.alerts), result.date),
        ]
    )


def _counts(counts: Mapping[str, int]) -> str:
    parts = [f"{count} × {name}" for name, count in sorted(counts.items()) if count]
    return ", ".join(parts) or "–"


def _alerts(alerts: Sequence[Alert] | None) -> str:
    if alerts is None:
        return "–"
    return ", ".join(map(str, alerts)) or "none"


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
