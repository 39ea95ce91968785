"""What the newest clients change is told apart by client, from a report of pytest."""

from __future__ import annotations

import re
from xml.sax.saxutils import quoteattr

from packaging.utils import canonicalize_name

from scripts.supply_chain.clients import (
    JAVASCRIPT,
    TESTED,
    Client,
    clients_of,
    failures,
    javascript_versions,
    python_versions,
    table,
)
from scripts.supply_chain.packages import ROOT

README = """\
| client | tests |
|---|---|
| Python's (`some_client` 1.0) | `tests/wire/test_a.py::test_one`, `tests/wire/test_a.py::test_6` |
| JavaScript's (`@some/client` 2.0.1) | `tests/wire/test_b.py::test_three` |
| The same (`@some/client` 2.0.1), other media | `tests/wire/test_a.py::test_four` |
| any program, unchanged | `tests/wire/test_c.py::test_five` |
"""
PYTHONS, JAVASCRIPTS = ("some-client", "1.0"), ("@some/client", "2.0.1")


def report(case: str, *errors: str) -> str:
    inside = f"<testcase {case}>{''.join(errors)}</testcase>"
    return f"<testsuites><testsuite>{inside}</testsuite></testsuites>"


def test_a_test_belongs_to_the_clients_whose_rows_name_it() -> None:
    assert clients_of("tests/wire/test_a.py::test_one[fakes]", README) == {PYTHONS}
    assert clients_of("tests/wire/test_a.py::test_four", README) == {JAVASCRIPTS}


def test_a_test_that_no_row_names_belongs_to_the_clients_of_its_file() -> None:
    assert clients_of("tests/wire/test_a.py::test_other", README) == {PYTHONS, JAVASCRIPTS}
    assert clients_of("tests/wire/test_b.py", README) == {JAVASCRIPTS}
    assert clients_of("tests/wire/test_c.py::test_five", README) == set()


def test_the_first_line_of_an_error_is_kept() -> None:
    text = "def test_one():\n>       assert 1 == 2\nE       assert 1 == 2\nE       more\n"
    failed = report(
        'file="tests/wire/test_a.py" name="test_one[fakes]"',
        f'<failure message="whole">{text}</failure>',
    )
    assert failures(failed) == {"tests/wire/test_a.py::test_one[fakes]": "assert 1 == 2"}
    message = quoteattr("failed on setup\nand more")
    without = report(
        'file="tests/wire/test_a.py" name="test_one"', f"<error message={message}></error>"
    )
    assert failures(without) == {"tests/wire/test_a.py::test_one": "failed on setup"}


def test_a_file_that_cannot_be_imported_is_one_failure() -> None:
    failed = report(
        'classname="" name="tests.wire.test_a"',
        '<error message="collection failure">E   ImportError: no x</error>',
    )
    assert failures(failed) == {"tests/wire/test_a.py": "ImportError: no x"}


def test_what_passes_is_no_failure() -> None:
    assert failures(report('file="tests/wire/test_a.py" name="test_one"')) == {}


def test_the_table_has_each_failure_beside_its_client() -> None:
    clients = [Client("Python", "some_client", "1.0", "1.1")]
    failed = {
        "tests/wire/test_a.py::test_one": "KeyError: a|b",
        "tests/wire/test_c.py::test_five": "TypeError",
    }
    *_, own, others = table(clients, failed, README).splitlines()
    assert own == (
        "| `some_client` (Python) | 1.0 | 1.1 | `tests/wire/test_a.py::test_one`: KeyError: a\\|b |"
    )
    assert others.endswith("| `tests/wire/test_c.py::test_five`: TypeError |")


def test_the_table_says_that_nothing_fails() -> None:
    assert table([Client("Python", "a", "1", "2")], {}, README).endswith("| 1 | 2 | none |")


def test_the_tables_of_clients_have_the_pinned_versions() -> None:
    """In its README and the documentation, a row names the version that the test runs."""
    pinned = set(python_versions().items())
    for folder in JAVASCRIPT:
        pinned |= javascript_versions(folder).items()
    for page in (TESTED, "docs/how-to/use-other-clients.md"):
        rows = re.findall(r"^\| .*?\(`([^`]+)` (\d[\w.]*)\)", (ROOT / page).read_text(), re.M)
        assert len(rows) > 10
        assert {(canonicalize_name(name), version) for name, version in rows} <= pinned, page
