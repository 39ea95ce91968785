"""Arguments and output of a pipeline class of diffusers, read from its source.

Importing diffusers would import torch, which takes seconds, and which a machine that only calls a
Darkroom may lack.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from serve_app.domain.errors import Misconfigured

Output = Literal["image", "video", "audio"]

OUTPUT_FIELDS: Mapping[str, Output] = {"frames": "video", "audios": "audio", "images": "image"}
"""Field of the result of a call → what it holds."""

REQUIRED = object()
"""Default of an argument that has none."""

_CLASS = re.compile(r"^class (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PipelineCall:
    """Signature of a pipeline's ``__call__``."""

    name: str  # of the class
    arguments: Mapping[str, Any]  # name → default; ``REQUIRED``; None for one that is computed
    output: Output

    @property
    def required(self) -> frozenset[str]:
        return frozenset(name for name, each in self.arguments.items() if each is REQUIRED)


def read_call(name: str) -> PipelineCall:
    """Signature of the class ``name``. ``Misconfigured``: this machine's diffusers has no such
    pipeline, or its output is neither images, videos nor audio."""
    found = find_spec("diffusers")
    places = found.submodule_search_locations if found is not None else None
    if not places:
        raise Misconfigured(
            "diffusers is not installed on this machine, so the pipeline cannot be inspected. "
            "Name a similar endpoint with --like, or run the command where replicas run."
        )
    call = _call(Path(next(iter(places))) / "pipelines", name)
    if call is None:
        raise Misconfigured(
            f"The diffusers on this machine has no pipeline {name}. Only classes that diffusers "
            "ships are loaded; a newer version may have it."
        )
    function, source = call
    fields = [each for each in OUTPUT_FIELDS if f"({each}=" in source]
    if not fields:
        raise Misconfigured(
            f"{name} returns neither images, videos nor audio. Write a family for it: "
            "docs/how-to/write-a-family.md."
        )
    return PipelineCall(name, dict(_arguments(function.args)), OUTPUT_FIELDS[fields[0]])


def _call(pipelines: Path, name: str) -> tuple[ast.FunctionDef, str] | None:
    """``__call__`` of the class, which may be inherited, and its source."""
    file = _files(pipelines).get(name)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _own_call(node, text) or _inherited_call(pipelines, node)
    return None


@cache
def _files(pipelines: Path) -> Mapping[str, Path]:
    """Name of a class → file that defines it."""
    return {
        name: file
        for file in sorted(pipelines.rglob("*.py"), reverse=True)
        for name in _CLASS.findall(file.read_text(encoding="utf-8"))
    }


def _own_call(node: ast.ClassDef, text: str) -> tuple[ast.FunctionDef, str] | None:
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__call__":
            return each, ast.get_source_segment(text, each) or ""
    return None


def _inherited_call(pipelines: Path, node: ast.ClassDef) -> tuple[ast.FunctionDef, str] | None:
    bases = (base.id for base in node.bases if isinstance(base, ast.Name))
    found = (_call(pipelines, base) for base in bases if base.endswith("Pipeline"))
    return next((each for each in found if each is not None), None)


def _arguments(given: ast.arguments) -> Iterator[tuple[str, Any]]:
    named = [*given.posonlyargs, *given.args][1:]  # without ``self``
    none: list[ast.expr | None] = [None] * (len(named) - len(given.defaults))
    for each, default in zip(named, [*none, *given.defaults], strict=True):
        yield each.arg, _value(default)
    for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield each.arg, _value(default)


def _value(default: ast.expr | None) -> Any:
    if default is None:
        return REQUIRED
    try:
        return ast.literal_eval(default)
    except ValueError:
        return None
