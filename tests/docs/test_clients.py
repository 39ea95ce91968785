"""The table of clients claims nothing without a test."""

from __future__ import annotations

import pytest

from tests.docs.pages import DOCS, code, table
from tests.docs.test_matrix import named_in

ROWS = table(DOCS / "how-to" / "use-other-clients.md", "client")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_row_names_tests_that_are_there(row: list[str]) -> None:
    client, way, works, tests = row
    assert all((client, way, works))
    assert code(tests), f"{client} has no test"
    for named in code(tests):
        file, _, name = named.partition("::")
        assert name in named_in(file), named
