"""The report of the code's sizes and counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.structure.figures import figures, line_kinds, lone_modules
from scripts.structure.modules import parse_module
from scripts.structure.report import add, read, table

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_report_counts_this_code(tmp_path: Path) -> None:
    """Of the product, only a part: to parse and walk all of it takes 30 s of CPU."""
    for folder in ("docs", "serve_app/queue"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    counted = figures(tmp_path)
    assert all(counted[name] for name in ("product: code", "tables", "indexes", "routes"))


def test_each_line_is_of_one_kind() -> None:
    text = '"""About."""\n\n# why\nVALUE = """\n# text\n"""\n"""Its unit."""\nx = 1  # beside\n'
    kinds = line_kinds(parse_module("a.py", text))
    assert kinds == {"code": 4, "docstring": 2, "comment": 1, "blank": 1}


def test_a_short_module_with_one_importer_beside_it_is_found() -> None:
    product = [
        parse_module("a/one.py", "class Part: pass\n"),
        parse_module("a/two.py", "from a.one import Part\n"),
        parse_module("b/three.py", "import a.two\n"),
    ]
    assert lone_modules(product) == ["a/one.py"]


def test_the_history_keeps_the_rows_of_a_time_with_other_figures(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    add(history, {"date": "2026-01-01", "modules": "3", "gone": "7"})
    add(history, {"date": "2026-02-01", "modules": "12", "new": "1"})
    rows = read(history)
    assert rows[0] == {"date": "2026-01-01", "modules": "3", "new": "", "gone": "7"}
    assert table(rows).splitlines() == [
        "date     2026-01-01  2026-02-01",
        "modules           3          12",
        "new                           1",
        "gone              7            ",
    ]
