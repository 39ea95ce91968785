"""The crash matrix names tests that there are, and all of those that were made for it."""

from __future__ import annotations

import ast

from tests.docs.pages import ROOT, matrix, what_goes_on


def named_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


def test_every_test_of_the_matrix_is_there() -> None:
    for named in [*matrix(), *what_goes_on()]:
        file, name = named.split("::")
        assert name in named_in(file), named


def test_every_crash_test_is_in_the_matrix() -> None:
    here = {
        f"tests/crash/{file.name}::{name}"
        for file in (ROOT / "tests" / "crash").glob("test_*.py")
        for name in named_in(f"tests/crash/{file.name}")
        if name.startswith("test_")
    }
    assert here <= {*matrix(), *what_goes_on()}
