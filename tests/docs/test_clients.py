"""The table of clients claims nothing without a test."""

from __future__ import annotations

import pytest

from tests.docs.pages import DOCS, ROOT, code, table
from tests.docs.test_matrix import named_in

ROWS = table(DOCS / "how-to" / "use-other-clients.md", "client")
TESTS = dict(table(ROOT / "tests" / "wire" / "README.md", "client"))


def test_every_row_has_its_tests() -> None:
    assert [row[0] for row in ROWS] == list(TESTS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_row_names_tests_that_are_there(row: list[str]) -> None:
    assert all(row)
    named = code(TESTS[row[0]])
    assert named, f"{row[0]} has no test"
    for reference in named:
        file, _, name = reference.partition("::")
        assert name in named_in(file), reference
