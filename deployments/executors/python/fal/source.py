"""Apps written for fal, read without importing them: which classes they are, and which files beside
them they need."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from serve_app.domain.errors import Misconfigured

FAL = "fal"

INSTALLED = frozenset({FAL, "darkroom"})
"""Modules that are in the environment, whatever lies beside the file."""


def app_names(tree: ast.Module) -> frozenset[str]:
    """Names under which a file knows ``fal.App``, such as ``fal.App`` and ``App``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for module in node.names:
                if module.name.partition(".")[0] == FAL:
                    name = module.asname or FAL
                    names |= {f"{name}.App", f"{name}.app.App"}
        elif isinstance(node, ast.ImportFrom) and node.module in (FAL, "fal.app"):
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "App"}
    return frozenset(names)


def dotted_name(expression: ast.expr) -> str:
    """Text of a dotted name; empty for other expressions."""
    if isinstance(expression, ast.Attribute):
        above = dotted_name(expression.value)
        return f"{above}.{expression.attr}" if above else ""
    return expression.id if isinstance(expression, ast.Name) else ""


def literal(tree: ast.Module, node: ast.ClassDef, name: str) -> Any:
    """Value of a class's attribute that is written out, also as a constant of the module. None if
    it has none, or one that only an import would tell."""
    assigned = last_assignment(node.body, name)
    if assigned is not None and isinstance(assigned.value, ast.Name):
        assigned = last_assignment(tree.body, assigned.value.id)
    if assigned is None or assigned.value is None:
        return None
    try:
        return ast.literal_eval(assigned.value)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def last_assignment(body: Sequence[ast.stmt], name: str) -> ast.Assign | ast.AnnAssign | None:
    """Statement that gives a name its value, the last of several. None: there is none."""
    for line in reversed(body):
        if isinstance(line, ast.Assign):
            targets = line.targets
        elif isinstance(line, ast.AnnAssign) and line.value is not None:
            targets = [line.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return line
    return None


def files_beside(path: Path, class_name: str, working: Path) -> Mapping[str, Path]:
    """Files that an app needs, by their names in its bundle: local modules that it imports or
    names, and its ``app_files``. ``working``: folder in which modules are looked for after the
    file's own.

    ``Misconfigured`` names a file that is not there.
    """
    tree = ast.parse(path.read_bytes())
    node = next(
        statement
        for statement in tree.body
        if isinstance(statement, ast.ClassDef) and statement.name == class_name
    )
    files: dict[str, Path] = {}
    for module in sorted(_texts(tree, node, "local_python_modules")):
        name = module.partition(".")[0]
        place = _module(name, path, working)
        if place is None:
            raise Misconfigured(
                f"{path.name}: local_python_modules names {module}, which is not beside the file "
                "and not in this folder. Add it by --with."
            )
        files |= _files_at(name, place)
    files |= _local_imports(tree, path, working)
    context = path.parent / str(literal(tree, node, "app_files_context_dir") or ".")
    for app_file in _texts(tree, node, "app_files"):
        place = context / app_file
        if not place.exists():
            raise Misconfigured(f"{path.name}: app_files names {app_file}, which is not there.")
        name = place.resolve().relative_to(context.resolve()).as_posix()
        files |= _files_at(name, place.resolve())
    files.pop(path.name, None)
    return files


def _texts(tree: ast.Module, node: ast.ClassDef, name: str) -> list[str]:
    value = literal(tree, node, name)
    return [str(item) for item in cast("Sequence[Any]", value)] if isinstance(value, list) else []


def _local_imports(tree: ast.Module, path: Path, working: Path) -> dict[str, Path]:
    """Local modules that a file imports, and those that they import."""
    modules: dict[str, Path] = {}
    waiting = list(_top_names(tree))
    while waiting:
        name = waiting.pop()
        place = _module(name, path, working)
        known = name in sys.stdlib_module_names or name in INSTALLED
        if known or place is None or (place.is_dir() and not (place / "__init__.py").is_file()):
            continue
        if files := {
            key: file for key, file in _files_at(name, place).items() if key not in modules
        }:
            modules |= files
            if place.is_file():
                waiting += _top_names(ast.parse(place.read_bytes()))
    return modules


def _top_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _module(name: str, path: Path, working: Path) -> Path | None:
    """File or folder of a local module."""
    for folder in (path.resolve().parent, working.resolve()):
        if (folder / f"{name}.py").is_file():
            return folder / f"{name}.py"
        if any((folder / name).glob("**/*.py")):
            return folder / name
    return None


def _files_at(name: str, place: Path) -> dict[str, Path]:
    """Files at a place, by their names in a bundle."""
    if place.is_file():
        stem = Path(name)
        return {(stem if stem.suffix else stem.with_suffix(place.suffix)).as_posix(): place}
    return {
        f"{name}/{path.relative_to(place).as_posix()}": path
        for path in sorted(place.rglob("*"))
        if path.is_file() and not _is_hidden(path.relative_to(place))
    }


def _is_hidden(path: Path) -> bool:
    return "__pycache__" in path.parts or any(part.startswith(".") for part in path.parts)
