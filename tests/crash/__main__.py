"""The whole crash matrix, some rounds of it, and what was lost, ended twice or billed twice in all.
Run by ``scripts/crash``."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.history import Tally
from tests.docs.pages import ROOT, matrix


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--without-cluster", action="store_true", help="Leave out the tests that start Ray."
    )
    asked = parser.parse_args()
    total, failed = Tally(), 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, asked.rounds + 1):
            seed = random.SystemRandom().randrange(10**6)
            file = Path(folder) / f"{number}"
            failed += _round(seed, file, without_cluster=asked.without_cluster)
            total = sum(_tallies(file), total)
            print(f"Round {number} of {asked.rounds}, --crash-seed {seed}: {_said(total, failed)}")  # noqa: T201
    return int(bool(failed or total.problems))


def _round(seed: int, file: Path, *, without_cluster: bool) -> bool:
    """Whether a test failed."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--show-capture=no"),
        *("--crash-seed", str(seed), "--crash-tally", str(file)),
        *(["-m", "not cluster"] if without_cluster else []),
        *matrix(),
    ]
    return subprocess.run(command, cwd=ROOT, check=False).returncode != 0


def _tallies(file: Path) -> list[Tally]:
    lines = file.read_text().splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return [Tally(**{**each, "problems": tuple(each["problems"])}) for each in found]


def _said(total: Tally, failed: int) -> str:
    return (
        f"so far {total.accepted} accepted, {total.lost} lost, {total.ended_twice} ended twice, "
        f"{total.billed_twice} billed twice, {len(total.problems)} problems; "
        f"{failed} rounds with a failed test."
    )


if __name__ == "__main__":
    sys.exit(main())
