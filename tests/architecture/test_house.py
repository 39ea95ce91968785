"""The rules of CONTRIBUTING.md about the structure of the code (``house`` measures them)."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.house import (
    MAX_LINES,
    ROOT,
    Measure,
    Module,
    lone_modules,
    measures,
    odd_docstrings,
    repeated,
    wide_functions,
)

OTHERS = "benchmarks", "scripts", "tests", "training"


@pytest.mark.parametrize("measure", measures(), ids=lambda each: each.title)
def test_the_structure_stays_within_its_limits(measure: Measure) -> None:
    assert measure.kept, "\n".join([str(measure), *measure.places])


def test_no_other_python_file_is_so_long_that_it_must_be_about_several_things() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): path.read_bytes().count(b"\n")
        for folder in OTHERS
        for path in (ROOT / folder).rglob("*.py")
        if "node_modules" not in path.parts
    }
    assert len(lines) > len(OTHERS)
    assert not {path: n for path, n in lines.items() if n >= MAX_LINES}


def test_the_measures_find_what_they_look_for() -> None:
    many = ", ".join(f"p{number}" for number in range(10))
    first = f"class Part:\n    '''Of the whole.'''\n    def f({many}): pass\n"
    every = [
        _module("a/one.py", first),
        _module("a/two.py", "from a.one import Part\n"),
        _module("b/three.py", "import a.two\nclass Part: pass\n"),
    ]
    assert lone_modules(every) == ["a/one.py"]
    assert repeated(every) == ["Part: a/one.py, b/three.py"]
    assert odd_docstrings(every) == ["a/one.py:1 Part"]
    assert wide_functions(every) == ["a/one.py:3 f"]


def _module(path: str, text: str) -> Module:
    return Module(path, text.count("\n"), ast.parse(text))
