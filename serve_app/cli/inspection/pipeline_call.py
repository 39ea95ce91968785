"""Arguments and output of a pipeline class of diffusers, read from its source.

Importing diffusers would import torch, which takes seconds, and which a machine that only calls a
Darkroom may lack. Modular pipelines are asked in a process of their own that imports it, because
their blocks compute what they take.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from serve_app.domain.errors import Misconfigured
from serve_app.domain.pipeline_index import ELSEWHERE, components
from serve_app.options.results import DeclaredResult, ResultType

Output = Literal["image", "video", "audio", "text"]
FAMILY_OF_OUTPUT: Mapping[Output, str] = {
    "image": "generic",
    "video": "video",
    "audio": "audio",
    "text": "generic",
}

OUTPUT_FIELDS: Mapping[str, Output] = {
    "frames": "video",
    "videos": "video",
    "audios": "audio",
    "images": "image",
    "image": "image",
    "rgb": "image",
    "texts": "text",
}
"""Field of the result of a call → what it holds."""

RESULT_FIELDS: Mapping[str, ResultType] = {
    "rgb": ResultType.IMAGE_AND_DEPTH,
    "texts": ResultType.TEXT,
}
"""Field of the result of a call → what it makes in place of images."""

RESULTS: Mapping[str, ResultType] = {
    "MarigoldDepthPipeline": ResultType.DEPTH,
    "MarigoldNormalsPipeline": ResultType.NORMALS,
    "MarigoldIntrinsicsPipeline": ResultType.INTRINSICS,
    "ShapEPipeline": ResultType.MESH,
    "ShapEImg2ImgPipeline": ResultType.MESH,
}
"""Class → what it makes in place of images."""

LAYERS = "layers"
"""Argument that says how many layers a call makes of an image."""

TARGETS = "target_properties"
"""Setting of a pipeline that names its maps."""

PRIOR = "prior"
"""First of two stages, and beginning of the names of its components in a class that runs both."""

CONTROL_NET = "controlnet"
"""Component that may be several models together."""

MODULAR = "ModularPipeline"
"""End of the names of modular pipelines."""

MODULAR_CALL, MODULAR_CALL_S = "deployments.checking.modular_call", 300.0
"""Module that says what their blocks take, and the longest that it may take."""

PACKAGES = (("diffusers", "pipelines"), ("deployments", "engine/pipelines"))
"""Packages with pipelines, and the folder of each. What diffusers lacks is the engine's own."""

Folders = tuple[Path, ...]

REQUIRED = object()
"""Default of an argument that has none."""

_NAME = re.compile(r"\w+")
_CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
_DESCRIBED = re.compile(r"^( *)(\w+) ?\([^\n]*\):? *\n((?:\1 +\S[^\n]*\n|[ ]*\n)+)", re.MULTILINE)
"""An argument of a docstring: its indentation, its name, and the lines below."""
_SENTENCE = re.compile(r"(.+?[.!?])(?<!e\.g\.)(?<!i\.e\.)(?:\s|$)", re.DOTALL)
MOST_DESCRIBED = 300  # characters of a description


@dataclass(frozen=True, slots=True)
class Argument:
    """Argument of a pipeline's ``__call__``."""

    name: str
    default: Any  # ``REQUIRED``; None for one that is computed
    type: str = ""  # as its annotation is written
    about: str = ""  # first sentence about it in the docstring
    item: tuple[Argument, ...] = ()  # of the constructor of the objects in its list
    choices: tuple[str, ...] = ()  # of the enumeration that its annotation names

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Setting:
    """Number of a component that each call may set, such as the guidance scale of a guider."""

    field: str  # name for requests
    place: str  # component and setting, with a dot between them
    default: float | None  # None: without effect unless it is set


@dataclass(frozen=True, slots=True)
class PipelineCall:
    """Signature of a pipeline's ``__call__``."""

    name: str  # of the class
    arguments: Mapping[str, Argument]
    output: Output
    takes_loras: bool = False
    settings: tuple[Setting, ...] = ()
    targets: tuple[str, ...] = ()  # names of the maps that the weights make
    control_nets: frozenset[str] = frozenset()  # classes of the ControlNet that it takes
    makes: frozenset[str] = frozenset()  # fields of its result

    @property
    def result(self) -> DeclaredResult | None:
        """What it makes in place of images. ``Misconfigured``: the weights do not name it."""
        by_field = (type_ for field, type_ in RESULT_FIELDS.items() if field in self.makes)
        if (type_ := RESULTS.get(self.name) or next(by_field, None)) is None:
            layered = self.output == "image" and LAYERS in self.arguments
            return DeclaredResult(type=ResultType.LAYERS) if layered else None
        if type_ is not ResultType.INTRINSICS:
            return DeclaredResult(type=type_)
        if not self.targets:
            raise Misconfigured(
                f"{self.name} makes maps that the weights name, and their index has no "
                f"`{TARGETS}` with `target_names`. Write them in the index (model_index.json)."
            )
        try:
            return DeclaredResult(type=type_, fields=self.targets)
        except ValueError as error:
            raise Misconfigured(f"The maps of {self.name} ({TARGETS}): {error}") from None

    @property
    def is_modular(self) -> bool:
        return self.name.endswith(MODULAR)

    def default(self, name: str) -> Any:
        """Default of an argument; None if it has none, or the pipeline lacks it."""
        argument = self.arguments.get(name)
        return None if argument is None or argument.is_required else argument.default


def read_call(name: str, index: Mapping[str, Any] | None = None) -> PipelineCall:
    """Signature of the class ``name``; of a modular one, with the components of ``index``, or with
    all. ``Misconfigured``: this machine's diffusers has no such pipeline, or its output is neither
    images, videos, audio nor text."""
    pipelines = tuple(source_folders())
    if not pipelines:
        raise Misconfigured(
            "diffusers is not installed on this machine, so the pipeline cannot be inspected. "
            "Name a similar endpoint with --like, or run the command where replicas run."
        )
    if name.endswith(MODULAR):
        return _modular_call(name, index)
    call = _call(pipelines, name)
    if call is None and _class(pipelines, name) is not None:
        raise Misconfigured(
            f"{name} cannot be served without code: it has no `__call__`, but others by name. "
            "Write a family for it: docs/how-to/write-a-family.md."
        )
    if call is None:
        raise Misconfigured(
            f"The diffusers on this machine has no pipeline {name}. Only classes that diffusers "
            "ships are loaded; a newer version may have it."
        )
    arguments = {argument.name: argument for argument in _arguments(pipelines, call.function)}
    output = _output(name, call.makes)
    return PipelineCall(
        name,
        arguments,
        output,
        call.takes_loras,
        targets=(*_targets(index or {}),),
        control_nets=frozenset(_control_nets(pipelines, name)),
        makes=call.makes,
    )


def _control_nets(pipelines: Folders, name: str) -> Iterator[str]:
    """Names of the classes in the annotation of the ControlNet that the constructor takes."""
    for argument in _constructor(pipelines, name):
        if argument.name == CONTROL_NET:
            yield from _NAME.findall(argument.type)


def _constructor(pipelines: Folders, name: str) -> Iterator[Argument]:
    """Arguments of the class's own constructor."""
    node = _class(pipelines, name)
    for statement in () if node is None else node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            yield from _arguments(pipelines, statement)


def required_components(name: str) -> frozenset[str]:
    """Components that diffusers insists on: arguments of the constructor without a default that the
    class does not declare as optional. None of a class that inherits its constructor."""
    pipelines = tuple(source_folders())
    node = _class(pipelines, name)
    optional: set[str] = set()
    for statement in () if node is None else node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="_optional_components")], value=value):
                optional |= {*_value(value)}
            case _:
                continue
    required = {a.name for a in _constructor(pipelines, name) if a.is_required}
    return frozenset(required - optional)


def combined_words(name: str) -> str:
    """Sentence on how ``name``, a prior or a decoder, is served with the other stage; empty without
    a class that runs both."""
    pipelines = tuple(source_folders())
    stage = name.removesuffix("Pipeline").replace("Prior", "").replace("Decoder", "")
    if _class(pipelines, combined := f"{stage}CombinedPipeline") is not None:
        return (
            f"Serve both stages as one: the decoder's repository as the weights, with --pipeline "
            f"{combined} --part {PRIOR}= and the repository of the prior."
        )
    if "Prior" in name and _class(pipelines, both := f"{stage}Pipeline") is not None:
        parts = " ".join(
            f"--part {a.name}=…" for a in _constructor(pipelines, name) if a.is_required
        )
        return (
            "Serve both stages as one: the other stage's repository as the weights, with "
            f"--pipeline {both} {parts}, which are folders of this repository."
        )
    return ""


def _targets(index: Mapping[str, Any]) -> Iterator[str]:
    """Names of the maps that the pipeline of an index makes: of a stack, those of its parts too."""
    properties: Mapping[str, Any] = index.get(TARGETS) or {}
    for name in properties.get("target_names", ()):
        own: Mapping[str, Any] = properties.get(name) or {}
        parts = own.get("sub_target_names", ()) if own.get("prediction_space") == "stack" else ()
        yield from (str(part) for part in parts if part is not None)
        yield str(name)


def _output(name: str, makes: Collection[str]) -> Output:
    """What the results are of a class that returns these fields."""
    if name in RESULTS:
        return "image"
    for field, output in OUTPUT_FIELDS.items():
        if field in makes:
            return output
    returned = ", ".join(sorted(makes)) or "no result that it names"
    todo = combined_words(name) or "Write a family for it: docs/how-to/write-a-family.md."
    raise Misconfigured(
        f"{name} returns neither images, videos, audio nor text, but {returned}. {todo}"
    )


def _modular_call(name: str, index: Mapping[str, Any] | None) -> PipelineCall:
    command = [sys.executable, "-m", MODULAR_CALL, name]
    command += (
        [] if index is None else [",".join(component.name for component in components(index))]
    )
    process = subprocess.run(  # noqa: S603  this machine's Python; no shell
        command, capture_output=True, text=True, timeout=MODULAR_CALL_S, check=False
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"it ended with {process.returncode}"]
        raise Misconfigured(f"{name} cannot be served: {lines[-1]}.{_elsewhere(index)}")
    return as_call(name, json.loads(process.stdout))


def _elsewhere(index: Mapping[str, Any] | None) -> str:
    """Sentence about components that the index has in other repositories; empty without any."""
    there = (index or {}).get(ELSEWHERE, {})
    named = ", ".join(f"{name} in {place or 'no repository'}" for name, place in there.items())
    flags = " ".join(f"--part {name}={place or '…'}" for name, place in there.items())
    return f" Its index has {named}: add {flags}." if named else ""


def as_call(name: str, description: Mapping[str, Any]) -> PipelineCall:
    """Call of a modular pipeline, from its ``description``. ``Misconfigured``: its output is
    neither images, videos, audio nor text."""
    arguments = {argument["name"]: _as_argument(argument) for argument in description["arguments"]}
    settings = tuple(Setting(**setting) for setting in description["settings"])
    output = _output(name, description["makes"])
    return PipelineCall(name, arguments, output, description["takes_loras"], settings)


def _as_argument(spec: Mapping[str, Any]) -> Argument:
    described = dict(_descriptions(spec.get("docstring", "")))
    item = ({**field, "about": described.get(field["name"], "")} for field in spec.get("item", ()))
    return Argument(
        spec["name"],
        REQUIRED if spec["is_required"] else _default(spec["default"]),
        spec["type"],
        _first_sentence(spec["about"]),
        tuple(map(_as_argument, item)),
    )


def _default(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def module_of(name: str) -> ast.Module | None:
    """Parsed source of the module that defines a class; None: there is none."""
    file = _files(tuple(source_folders())).get(name)
    return None if file is None else ast.parse(file.read_text(encoding="utf-8"))


def source_folders() -> Iterator[Path]:
    """Folders with the source of pipelines; none where diffusers is not installed."""
    for package, inside in PACKAGES:
        spec = find_spec(package)
        places = None if spec is None else spec.submodule_search_locations
        if not places:
            return
        yield Path(next(iter(places))) / inside


@dataclass(frozen=True, slots=True)
class _Call:
    """``__call__`` of a class, which may be inherited."""

    function: ast.FunctionDef
    makes: frozenset[str]  # fields of its result
    takes_loras: bool


def _call(pipelines: Folders, name: str) -> _Call | None:
    node = _class(pipelines, name)
    if node is None:
        return None
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__call__":
            takes_loras = any("LoraLoader" in base for base in bases)
            return _Call(statement, frozenset(_result_fields(pipelines, statement)), takes_loras)
    inherited = (_call(pipelines, base) for base in bases if base.endswith("Pipeline"))
    return next((call for call in inherited if call is not None), None)


def _class(pipelines: Folders, name: str) -> ast.ClassDef | None:
    file = _files(pipelines).get(name)
    body = [] if file is None else ast.parse(file.read_text(encoding="utf-8")).body
    return next((e for e in body if isinstance(e, ast.ClassDef) and e.name == name), None)


@cache
def _files(pipelines: Folders) -> Mapping[str, Path]:
    """Name of a class → file that defines it."""
    return {
        name: file
        for folder in pipelines
        for file in sorted(folder.rglob("*.py"), reverse=True)
        for name in _CLASS.findall(file.read_text(encoding="utf-8"))
    }


def _result_fields(pipelines: Folders, function: ast.FunctionDef) -> list[str]:
    """Fields of the results that a call returns, or else of those that its docstring names."""
    names = [*_return_fields(pipelines, function)]
    described = ast.get_docstring(function, clean=False) or ""
    named = [] if names else dict.fromkeys(re.findall(r"\w+Output\b", described))
    return [*names, *(field for name in named for field in _fields(pipelines, name))]


def _return_fields(pipelines: Folders, function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if not (isinstance(node, ast.Return) and isinstance(node.value, ast.Call)):
            continue
        returned = node.value
        yield from (keyword.arg for keyword in returned.keywords if keyword.arg is not None)
        if returned.args and isinstance(returned.func, ast.Name):
            yield from _fields(pipelines, returned.func.id)[: len(returned.args)]


def _fields(pipelines: Folders, name: str) -> list[str]:
    """Fields of a class of results; empty for one that is not there."""
    definition = _class(pipelines, name)
    return [] if definition is None else [name for name, _ in _class_fields(definition)]


def _class_fields(kind: ast.ClassDef) -> Iterator[tuple[str, ast.AnnAssign]]:
    """Names and statements of the fields of a class."""
    for statement in kind.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, statement


def _item(pipelines: Folders, annotation: str) -> Iterator[Argument]:
    """Arguments of the constructor of the data class that an annotation names; none without one."""
    for name in dict.fromkeys(_NAME.findall(annotation)):
        definition = _class(pipelines, name)
        if definition is None or not any(map(_is_dataclass, definition.decorator_list)):
            continue
        described = dict(_descriptions(ast.get_docstring(definition, clean=False) or ""))
        for field, statement in _class_fields(definition):
            written = ast.unparse(statement.annotation)
            yield Argument(field, _value(statement.value), written, described.get(field, ""))


def _choices(pipelines: Folders, annotation: str) -> Iterator[str]:
    """Values of the enumeration of texts that an annotation names; none without one."""
    for name in dict.fromkeys(_NAME.findall(annotation)):
        definition = _class(pipelines, name)
        bases = [] if definition is None else [ast.unparse(base) for base in definition.bases]
        if definition is None or bases not in (["str", "Enum"], ["StrEnum"]):
            continue
        for statement in definition.body:
            if isinstance(statement, ast.Assign):
                yield str(_value(statement.value))


def _is_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "dataclass"


def _arguments(pipelines: Folders, function: ast.FunctionDef) -> Iterator[Argument]:
    described = dict(_descriptions(ast.get_docstring(function, clean=False) or ""))
    signature = function.args
    named = [*signature.posonlyargs, *signature.args][1:]  # without ``self``
    none: list[ast.expr | None] = [None] * (len(named) - len(signature.defaults))
    pairs = [
        *zip(named, [*none, *signature.defaults], strict=True),
        *zip(signature.kwonlyargs, signature.kw_defaults, strict=True),
    ]
    for parameter, default in pairs:
        written = "" if parameter.annotation is None else ast.unparse(parameter.annotation)
        yield Argument(
            parameter.arg,
            _value(default),
            written,
            described.get(parameter.arg, ""),
            tuple(_item(pipelines, written)),
            tuple(_choices(pipelines, written)),
        )


def _descriptions(docstring: str) -> Iterator[tuple[str, str]]:
    for _, name, text in _DESCRIBED.findall(docstring):
        yield name, _first_sentence(text)


def _first_sentence(text: str) -> str:
    words = " ".join(text.split())
    first = _SENTENCE.match(words)
    return (first[1] if first else words)[:MOST_DESCRIBED]


def _value(default: ast.expr | None) -> Any:
    if default is None:
        return REQUIRED
    try:
        return ast.literal_eval(default)
    except ValueError:
        return None
