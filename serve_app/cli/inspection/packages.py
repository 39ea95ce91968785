"""Python packages that diffusers needs for a pipeline beside its own, read from its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

from serve_app.cli.inspection.pipeline_call import module_of, source_folders
from serve_app.domain.pipeline_index import components

MODULES = {"onnx": "onnxruntime", "opencv": "cv2"}
"""diffusers' name of a package → its module, where it has another."""

_DUMMY = re.compile(
    r"^class (\w+)\(metaclass=DummyObject\):\n    _backends = \[(.*)\]", re.MULTILINE
)
"""Class that stands in for one whose packages are not installed, and their names."""


def missing_packages(pipeline: str, index: Mapping[str, Any]) -> list[str]:
    """Modules that are not installed on this machine, and without which diffusers does not load the
    class ``pipeline`` with the components of ``index``."""
    classes = (pipeline, *(component.class_name for component in components(index)))
    needed = {module for name in classes for module in _packages_by_class().get(name, ())}
    needed |= {*_with_stand_ins(pipeline)}
    return sorted(module for module in needed if find_spec(module) is None)


@cache
def _packages_by_class() -> Mapping[str, list[str]]:
    """Class of diffusers → modules without which diffusers exports a dummy in its place."""
    packages: dict[str, list[str]] = {}
    for folder in source_folders():
        for file in sorted((folder.parent / "utils").glob("dummy_*_objects.py")):
            for name, listed in _DUMMY.findall(file.read_text(encoding="utf-8")):
                names = re.findall(r"\w+", listed)
                packages[name] = [MODULES.get(package, package) for package in names]
    return packages


def _with_stand_ins(pipeline: str) -> Iterator[str]:
    """Modules that the source of a class imports if they are installed, and else has classes in
    their place that raise an error, as Cosmos for its safety checker."""
    module = module_of(pipeline)
    for statement in [] if module is None else module.body:
        if not isinstance(statement, ast.If) or not isinstance(statement.test, ast.Call):
            continue
        if not any(isinstance(n, ast.Raise) for e in statement.orelse for n in ast.walk(e)):
            continue
        for imported in statement.body:
            if isinstance(imported, ast.ImportFrom) and imported.module and not imported.level:
                yield imported.module.partition(".")[0]
