"""No two modules import each other, also not by way of others.

Each import counts: those inside functions and those for type checkers as well. A reader of such a
circle must understand all of its modules at once, whenever they are executed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

from scripts.structure.modules import ROOT

PAGE = ROOT / "serve_app" / "page"
TESTS = "tests"

Graph = Mapping[str, Set[str]]
"""What each module imports."""

JAVASCRIPT_IMPORT = re.compile(
    r"""^\s*(?:import|export)\b[^;'"]*?\bfrom\s*["'](?P<names>[^"']+)["']"""
    r"""|^\s*import\s*["'](?P<effects>[^"']+)["']"""
    r"""|\bimport\(\s*["'`](?P<late>[^"'`]+)["'`]""",
    re.MULTILINE,
)


def test_no_python_modules_import_each_other_in_a_circle() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = config["tool"]["importlinter"]["root_packages"]
    graph = grimp.build_graph(*packages, TESTS, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert imports["serve_app.app"]
    assert circle(imports) == []


def test_no_scripts_of_the_page_import_each_other_in_a_circle() -> None:
    imports = javascript_imports(PAGE)
    assert imports["app.js"]
    assert circle(imports) == []


def test_a_circle_is_found_through_imports_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "one.js").write_text('import {\n  two,\n} from "./parts/two.js";\n')
    (tmp_path / "parts" / "two.js").write_text('export { three } from "./three.js";\n')
    (tmp_path / "parts" / "three.js").write_text('import "./four.js";\nimport "./five.js";\n')
    (tmp_path / "parts" / "four.js").write_text('const load = () => import("../one.js");\n')
    (tmp_path / "parts" / "five.js").write_text('// import "../one.js" is only mentioned\n')
    names = ["one.js", "parts/four.js", "parts/three.js", "parts/two.js"]
    assert sorted(set(circle(javascript_imports(tmp_path)))) == names


def circle(graph: Graph) -> list[str]:
    """One circle, as a list whose first module is also its last; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def javascript_imports(folder: Path) -> Graph:
    return {
        path.relative_to(folder).as_posix(): {
            target.relative_to(folder).as_posix() for target in _imported_files(path)
        }
        for path in folder.rglob("*.js")
    }


def _imported_files(path: Path) -> Iterator[Path]:
    for match in JAVASCRIPT_IMPORT.finditer(path.read_text()):
        name = match["names"] or match["effects"] or match["late"]
        target = (path.parent / name).resolve()
        if not target.is_file():
            raise FileNotFoundError(f"{path} imports {name}, which is not a file.")
        yield target
