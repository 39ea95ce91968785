"""Remove each condition on a tenant in turn, and run the tests that run its statement.

A mutant that no test notices is a way from one tenant to another that could open unseen. It is
printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
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
OTHERS = "tests/ingress/http/test_other_tenants.py"
"""Calls with the ids of another tenant. They run most statements, and meet every mutant last."""
TESTS = ("tests/contract", "tests/queue", "tests/tenants", "tests/webhooks", OTHERS)
MOST_TESTS = 60
"""Of all others, a mutant meets those with the fewest statements, so with the clearest aim."""


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


def difference(statement: str, changed: str) -> str:
    """First line of the statement, and the lines that differ."""
    first, *_ = statement.strip().splitlines()
    lines = difflib.unified_diff(statement.splitlines(), changed.splitlines(), n=2, lineterm="")
    return "\n".join([first, *list(lines)[2:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file of which test runs what; made if absent")
    parser.add_argument("--only", default="", help="only statements with this text")
    parser.add_argument("--sample", type=int, help="so many of them, by chance")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("tests", nargs="*", default=TESTS)
    given = parser.parse_args()
    began, survivors = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        known = recorded(given.record or Path(folder) / "record", given.tests)
        mutants = [
            (statement, changed)
            for statement in known
            if given.only in statement and not statement.lstrip().startswith("EXPLAIN")
            for changed in without_one(statement)
        ]
        if given.sample is not None and given.sample < len(mutants):
            click.echo(f"Again: --sample {given.sample} --seed {given.seed}")
            mutants = random.Random(given.seed).sample(mutants, given.sample)  # noqa: S311
        for number, (statement, changed) in enumerate(mutants, start=1):
            mutant, tests = Path(folder) / "mutant", known[statement]
            mutant.write_text(json.dumps({"statement": statement, "changed": changed}))
            aimed = [each for each in tests if not each.startswith(OTHERS)][:MOST_TESTS]
            last = [each for each in tests if each.startswith(OTHERS)]
            is_noticed = run([*aimed, *last], "--mutant", str(mutant), "-x") != 0
            click.echo(f"{number} of {len(mutants)}: {'noticed' if is_noticed else 'NOT NOTICED'}")
            if not is_noticed:
                survivors += 1
                click.echo(f"\nby {len(tests)} tests:\n{difference(statement, changed)}\n")
    click.echo(
        f"{len(mutants)} conditions, {survivors} not noticed, {time.monotonic() - began:.0f} s"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
