"""The whole crash matrix, some rounds of it, and what was lost, ended twice or billed twice in all.
Run by ``scripts/crash``."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.chaos.history import Tally
from tests.docs.pages import ROOT, matrix, what_goes_on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="So many rounds beside each other.")
    parser.add_argument(
        "--without-cluster", action="store_true", help="Leave out the tests that start Ray."
    )
    parser.add_argument(
        "--what-goes-on", action="store_true", help="What is made when its replica is killed."
    )
    parser.add_argument("--output", type=Path, help="A folder for what the rounds say.")
    arguments = parser.parse_args()
    folder = arguments.output or Path(tempfile.mkdtemp(prefix="crash-"))
    folder.mkdir(parents=True, exist_ok=True)
    tests = what_goes_on() if arguments.what_goes_on else matrix()
    if arguments.without_cluster:
        tests = ["-m", "not cluster", *tests]
    rounds = [_Round(folder, number, tests) for number in range(arguments.rounds)]
    total, failed = Tally(), 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in as_completed([pool.submit(crash_round.run) for crash_round in rounds]):
            finished = done.result()
            failed += finished.failed
            total = sum(finished.tallies(), total)
            print(f"{finished.name} {finished.summary()}: {_said(total, failed)}", flush=True)  # noqa: T201
    return int(bool(failed or total.problems))


class _Round:
    """The tests once, in a process of its own: nothing that it writes is where another writes."""

    def __init__(self, folder: Path, number: int, tests: list[str]) -> None:
        self.name = f"round-{number + 1}"
        self.failed = False
        self._seed = random.SystemRandom().randrange(10**6)
        self._tests = tests
        self._output = folder / f"{self.name}.txt"
        self._tally = folder / f"{self.name}.tally"

    def run(self) -> _Round:
        self._tally.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="crash-") as scratch, self._output.open("w") as out:
            command = [
                *(sys.executable, "-m", "pytest", "-q", "--show-capture=no", "--durations=100"),
                *("-p", "no:cacheprovider", "--basetemp", f"{scratch}/tests"),
                *("--crash-seed", str(self._seed), "--crash-tally", str(self._tally)),
                *self._tests,
            ]
            ran = subprocess.run(command, cwd=ROOT, stdout=out, stderr=out, check=False)
        self.failed = ran.returncode != 0
        return self

    def summary(self) -> str:
        ended = "failed" if self.failed else "passed"
        return f"{ended} by --crash-seed {self._seed}, see {self._output}"

    def tallies(self) -> list[Tally]:
        return _tallies(self._tally)


def _tallies(file: Path) -> list[Tally]:
    lines = file.read_text().splitlines() if file.exists() else []
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [replace(Tally(**entry), problems=tuple(entry["problems"])) for entry in entries]


def _said(total: Tally, failed: int) -> str:
    return (
        f"so far {total.accepted} accepted, {total.lost} lost, {total.ended_twice} ended twice, "
        f"{total.billed_twice} billed twice, {len(total.problems)} problems; "
        f"{failed} rounds with a failed test."
    )


if __name__ == "__main__":
    sys.exit(main())
