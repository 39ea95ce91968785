"""Measures of the code's structure: ``python -m tests.architecture.house`` prints them.

Counted are the Python modules of ``PACKAGES``. CONTRIBUTING.md explains the rules; ``RULES`` holds
their limits.
"""

from __future__ import annotations

import ast
import functools
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = "deployments", "serve_app", "weights"
BAD_FIRST_WORDS = frozenset(
    {"Of", "Who", "Whoever", "Whom", "Whose", "So", "Whether", "That", "Those"}
)
MAX_MODULES_IN_FOLDER = 18
MAX_PARAMETERS = 9  # with ``self``
SMALL_LINES = 150
MAX_SMALL = 40
MEDIAN_LINES = 120, 200
MAX_LINES = 500

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A parsed file. ``path`` is relative to the root, with slashes."""

    path: str
    lines: int
    tree: ast.Module

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".")


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure, what it should be, and the places that were counted."""

    title: str
    value: int
    low: int
    high: int
    places: Sequence[str] = field(default=())

    @property
    def kept(self) -> bool:
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        limit = f"{self.low} to {self.high}" if self.low else f"at most {self.high}"
        return f"{self.title}: {self.value} ({limit}{'' if self.kept else '; NOT KEPT'})"


@functools.cache
def modules() -> Sequence[Module]:
    """Modules of the packages, without ``__init__.py``."""
    found: list[Module] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name != "__init__.py":
                text = path.read_text()
                name = path.relative_to(ROOT).as_posix()
                found.append(Module(name, text.count("\n"), ast.parse(text)))
    return found


def measures() -> Sequence[Measure]:
    every = modules()
    lines = [each.lines for each in every]
    folders = Counter(each.folder for each in every)
    full = [f"{folder} ({n})" for folder, n in folders.items() if n > MAX_MODULES_IN_FOLDER]
    longest = max(every, key=lambda each: each.lines)
    small, twice, odd, wide = (
        lone_modules(every),
        repeated(every),
        odd_docstrings(every),
        wide_functions(every),
    )
    return [
        _none(f"folders with more than {MAX_MODULES_IN_FOLDER} modules", full),
        _none("class names defined twice", twice),
        _none("docstrings that begin with Of, Who, So, Whether, That …", odd),
        _none(f"functions with more than {MAX_PARAMETERS} parameters, `self` counted", wide),
        Measure(
            f"modules under {SMALL_LINES} lines whose one importer stands beside them",
            len(small), 0, MAX_SMALL, small,
        ),
        Measure("median lines of a module", int(statistics.median(lines)), *MEDIAN_LINES),
        Measure("lines of the longest module", longest.lines, 0, MAX_LINES - 1, [longest.path]),
    ]  # fmt: skip


def _none(title: str, places: Sequence[str]) -> Measure:
    return Measure(title, len(places), 0, 0, places)


def lone_modules(every: Sequence[Module]) -> list[str]:
    """Short modules that one module of the same folder imports, and no other module does."""
    importers = _importers(every)
    return [
        each.path
        for each in every
        if each.lines < SMALL_LINES
        and len(importers[each.name]) == 1
        and next(iter(importers[each.name])).folder == each.folder
    ]


def _importers(every: Sequence[Module]) -> Mapping[str, set[Module]]:
    names = {each.name for each in every}
    found: defaultdict[str, set[Module]] = defaultdict(set)
    for each in every:
        for name in names.intersection(_imported(each.tree)):
            found[name].add(each)
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def repeated(every: Sequence[Module]) -> list[str]:
    """Public classes that two or more modules define."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for each in every:
        for node in each.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(each.path)
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(set(paths)) > 1]


def odd_docstrings(every: Sequence[Module]) -> list[str]:
    return [
        f"{each.path}:{node.lineno} {node.name}"
        for each in every
        for node in ast.walk(each.tree)
        if isinstance(node, Function | ast.ClassDef)
        and (ast.get_docstring(node) or "").split(" ", 1)[0] in BAD_FIRST_WORDS
    ]


def wide_functions(every: Sequence[Module]) -> list[str]:
    return [
        f"{each.path}:{node.lineno} {node.name}"
        for each in every
        for node in ast.walk(each.tree)
        if isinstance(node, Function)
        and len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
        > MAX_PARAMETERS
    ]


def main() -> None:
    """Print the figures, or with ``--list`` also the places."""
    every = modules()
    out = [f"{len(every)} modules, {sum(each.lines for each in every)} lines"]
    for measure in measures():
        out.append(str(measure))
        if "--list" in sys.argv or not measure.kept:
            out += [f"    {place}" for place in measure.places]
    print("\n".join(out))  # noqa: T201


if __name__ == "__main__":
    main()
