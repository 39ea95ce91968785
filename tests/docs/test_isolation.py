"""The page of what is promised names tests that exist."""

from __future__ import annotations

import pytest

from tests.docs.pages import ROOT, code, table
from tests.docs.test_matrix import named_in

PAGE = ROOT / "tests" / "attacks" / "README.md"
CACHES = [row for row in table(PAGE, "cache") if row[1].startswith("separate")]
THREATS = table(PAGE, "asset")
ROWS = [*table(PAGE, "what"), *CACHES, *THREATS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_promise_names_tests_that_are_there(row: list[str]) -> None:
    tests = code(row[-1])
    assert tests
    for reference in tests:
        file, separator, test = reference.partition("::")
        assert separator, reference
        assert test in named_in(file), reference
