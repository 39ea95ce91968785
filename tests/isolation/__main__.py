"""Remove each condition on a tenant in turn, and run the tests that run its statement.

A mutant that no test notices is a way from one tenant to another that could open unseen. It is
printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from tests.isolation.conditions import without_one

ROOT = Path(__file__).parents[2]
TESTS = ("tests/contract", "tests/queue", "tests/tenants", "tests/webhooks", "tests/ingress/api")
MOST_TESTS = 40
"""Tests that a mutant meets at most: those with the fewest statements, so with the clearest aim."""


def run(tests: Sequence[str], *options: str) -> int:
    """Exit status of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.isolation.plugin", *options]
    done = subprocess.run(
        [*command, *tests],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode


def recorded(path: Path, tests: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Tests by the statement that they run, those with the fewest statements first."""
    if not path.exists():
        run(tests, "--record-statements", str(path), "-m", "not cluster and not long")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in sorted(lines, key=lambda each: len(each["statements"])):
        for statement in line["statements"]:
            found[statement].append(line["test"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file of which test runs what; made if absent")
    parser.add_argument("--only", default="", help="only statements with this text")
    parser.add_argument("tests", nargs="*", default=TESTS)
    given = parser.parse_args()
    began, survivors, number = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        known = recorded(given.record or Path(folder) / "record", given.tests)
        for statement, tests in known.items():
            if given.only not in statement:
                continue
            for changed in without_one(statement):
                number += 1
                mutant = Path(folder) / "mutant"
                mutant.write_text(json.dumps({"statement": statement, "changed": changed}))
                if run(tests[:MOST_TESTS], "--mutant", str(mutant), "-x") == 0:
                    survivors += 1
                    click.echo(f"NOT NOTICED, by {len(tests)} tests:\n{changed.strip()}\n")
    click.echo(f"{number} conditions, {survivors} not noticed, {time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
