"""A statement without one of its conditions on a tenant, and the tests that run the statement."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutant:
    statement: str
    changed: str
    tests: Sequence[str]
    reason: str = ""  # why no test misses the condition

    def verdict(self, noticed: bool) -> str:
        if self.reason:
            return f"{'NOTICED, though' if noticed else 'not noticed:'} {self.reason}"
        return "noticed" if noticed else "NOT NOTICED"

    def difference(self) -> str:
        """First line of the statement, and the lines that differ."""
        first, *_ = self.statement.strip().splitlines()
        both = self.statement.splitlines(), self.changed.splitlines()
        lines = difflib.unified_diff(*both, n=2, lineterm="")
        return "\n".join([first, *list(lines)[2:]])


def write_mutants(path: Path, mutants: Iterable[Mutant]) -> None:
    path.write_text("".join(f"{json.dumps(asdict(mutant))}\n" for mutant in mutants))


def read_mutants(path: Path) -> Sequence[Mutant]:
    return [Mutant(**json.loads(line)) for line in path.read_text().splitlines()]
