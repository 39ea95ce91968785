"""The lists of "The three paths" (tests/architecture/README.md), against real requests.

``paths`` says what is counted. It runs in a process of its own, because the profile hook must be
there before the first thread, and would slow all later tests down.
"""

from __future__ import annotations

import ast

import pytest

from scripts.structure.report import traced_ways
from tests.architecture.paths import ROOT, Listed, Way, describe, lengths, read_lists

pytestmark = pytest.mark.timeout(1200)  # every call of three ways is recorded

LISTED = read_lists()
EACH = [function for functions in LISTED.values() for function in functions]


@pytest.fixture(scope="module")
def ways() -> dict[str, Way]:
    return {name: Way(**fields) for name, fields in traced_ways(ROOT).items()}


def test_the_page_lists_three_paths() -> None:
    assert {name: bool(functions) for name, functions in LISTED.items()} == dict.fromkeys(
        "abc", True
    )


@pytest.mark.parametrize("function", EACH, ids=lambda function: function.name)
def test_a_listed_function_is_in_the_file_that_it_is_linked_to(function: Listed) -> None:
    ast.parse((ROOT / function.path).read_text())
    assert function.function in lengths(function.module)


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.parametrize("name", LISTED)
def test_a_request_calls_the_listed_functions_in_their_order(
    ways: dict[str, Way], name: str
) -> None:
    assert not ways[name].missing, describe(name, ways[name])
