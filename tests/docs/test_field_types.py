"""The table of what can be wrong with a field claims nothing without a test."""

from __future__ import annotations

import pytest

from tests.docs.pages import DOCS, code, table
from tests.docs.test_matrix import named_in

ROWS = table(DOCS / "reference" / "errors.md", "type")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_row_names_tests_that_are_there(row: list[str]) -> None:
    types, when, _, tests = row
    assert code(types)
    assert when
    assert code(tests), f"{types} has no test"
    for named in code(tests):
        file, _, name = named.partition("::")
        assert name in named_in(file), named
