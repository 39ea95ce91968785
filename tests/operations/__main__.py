"""What an operator does on a running installation, under load. Run by ``scripts/operations``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.operations.autoscaler import autoscaler
from tests.operations.backup import backup
from tests.operations.clock import clock_of_database, clock_of_node
from tests.operations.comparison import Outcome
from tests.operations.failover import failover, failover_with_loss
from tests.operations.head import head
from tests.operations.soak import soak
from tests.operations.upgrade import BEFORE, upgrade

COLUMNS = (
    "scenario", "accepted", "lost", "failed", "ended twice", "billed twice", "attempts interrupted",
    "attempts counted as failures", "longest without an accepted submit", "answers to repeat",
    "what was checked", "date",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="Length of the soak.")
    parser.add_argument("--before", default=BEFORE, help="The commit that is upgraded.")
    parser.add_argument(
        "--output",
        type=Path,
        help="A folder for operations.md and operations.json. Rows of an earlier run stay.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="Scenarios. Default: all.")
    arguments = parser.parse_args()
    scenarios: dict[str, Callable[[Path], Iterator[Outcome]]] = {
        "upgrade": lambda folder: upgrade(folder, arguments.before),
        "backup": backup,
        "failover": failover,
        "failover-with-loss": failover_with_loss,
        "head": head,
        "autoscaler": autoscaler,
        "clock": clock_of_node,
        "clock-of-database": clock_of_database,
        "soak": lambda folder: soak(folder, arguments.minutes),
    }
    if unknown := set(arguments.names) - scenarios.keys():
        parser.error(f"no such scenarios: {sorted(unknown)}; there are {sorted(scenarios)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the cluster is ended
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="operations-"))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = _earlier(folder)
    for name in arguments.names or list(scenarios):
        with tempfile.TemporaryDirectory(prefix="operations-") as scratch:
            for outcome in scenarios[name](Path(scratch)):
                outcomes[outcome.scenario] = outcome
                print(json.dumps(asdict(outcome)), flush=True)  # noqa: T201
                _write(folder, list(outcomes.values()))
    print((folder / "operations.md").read_text())  # noqa: T201
    return int(not all(outcome.good for outcome in outcomes.values()))


def _earlier(folder: Path) -> dict[str, Outcome]:
    file = folder / "operations.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    lists = ("checked", "problems")
    return {
        row["scenario"]: Outcome(**row | {name: tuple(row[name]) for name in lists}) for row in rows
    }


def _write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    (folder / "operations.json").write_text(
        json.dumps([asdict(outcome) for outcome in outcomes], indent=2)
    )
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_row, outcomes)]
    (folder / "operations.md").write_text("\n".join(lines) + "\n")


def _row(outcome: Outcome) -> str:
    gap = "–" if outcome.longest_gap_s is None else f"{outcome.longest_gap_s:.0f} s"
    answers = ", ".join(f"{count} × {name}" for name, count in sorted(outcome.answers.items()))
    return _line(
        [
            *(outcome.scenario, outcome.accepted, outcome.lost, outcome.failed),
            *(outcome.ended_twice, outcome.billed_twice, outcome.interrupted, outcome.failures),
            *(gap, answers or "–", "; ".join(outcome.checked), outcome.date),
        ]
    )


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
