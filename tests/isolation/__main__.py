"""Remove each condition on a tenant in turn, and run the tests that run its statement.

A mutant that no test notices is a way from one tenant to another that could open unseen. It is
printed, and the exit status is 1, unless `redundant.py` has a reason for it. So it is if a test
notices one with a reason.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click

from tests.isolation.conditions import without_one
from tests.isolation.mutant import Mutant, write_mutants
from tests.isolation.redundant import reason_of

ROOT = Path(__file__).parents[2]
OTHERS = "tests/ingress/http/test_other_tenants.py"
"""Calls with the ids of another tenant. They run most statements, and meet every mutant last."""
TESTS = ("tests/contract", "tests/queue", "tests/tenants", "tests/webhooks", OTHERS)
MOST_TESTS = 60
"""Of all others, a mutant meets those with the fewest statements, so with the clearest aim."""
TEST_S = 60


def run(tests: Iterable[str], *options: str, quiet: bool = True) -> int:
    """Exit status of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.isolation.plugin", *options]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run([*command, *tests], cwd=ROOT, stdout=output, check=False).returncode


def read_record(path: Path, tests: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Tests by the statement that they run, those with the fewest statements first."""
    if not path.exists():
        run(tests, "--record-statements", str(path), "-m", "not cluster and not long")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    by_statement: defaultdict[str, list[str]] = defaultdict(list)
    for line in sorted(lines, key=lambda record: len(record["statements"])):
        for statement in line["statements"]:
            by_statement[statement].append(line["test"])
    return by_statement


def select_tests(tests: Sequence[str]) -> Sequence[str]:
    """Tests that a mutant meets."""
    last = [test for test in tests if test.startswith(OTHERS)]
    return [*[test for test in tests if test not in last][:MOST_TESTS], *last]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file of which test runs what; made if absent")
    parser.add_argument("--only", default="", help="only statements with this text")
    parser.add_argument("--sample", type=int, help="so many of them, by chance")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("tests", nargs="*", default=TESTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        known = read_record(arguments.record or Path(folder) / "record", arguments.tests)
        mutants = [
            Mutant(
                statement, changed, select_tests(known[statement]), reason_of(statement, changed)
            )
            for statement in known
            if arguments.only in statement and not statement.lstrip().startswith("EXPLAIN")
            for changed in without_one(statement)
        ]
        if arguments.sample is not None and arguments.sample < len(mutants):
            click.echo(f"Again: --sample {arguments.sample} --seed {arguments.seed}")
            mutants = random.Random(arguments.seed).sample(mutants, arguments.sample)  # noqa: S311
        file = Path(folder) / "mutants"
        write_mutants(file, mutants)
        tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
        # A test that waits for what the mutant never does has failed.
        options = ("--mutants", str(file), "-o", f"timeout={TEST_S}")
        return run(tests, *options, quiet=False)


if __name__ == "__main__":
    sys.exit(main())
