"""Program that reads the inputs and the output of a Cog predictor, in the predictor's environment.

It imports the standard library and ``cog``, of which it uses documented names only, and prints one
line of JSON: the schemas that ``cog build`` would write, or ``failed`` with a sentence.

    python introspection.py predict:FILE.py:NAME train:FILE.py:NAME
"""

from __future__ import annotations

import ast
import collections.abc
import datetime
import enum
import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import sys
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any

SCALARS: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    datetime.datetime: {"type": "string"},
    bytes: {"type": "string"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
}
STREAMS = (
    collections.abc.Iterator,
    collections.abc.AsyncIterator,
    collections.abc.Generator,
    collections.abc.AsyncGenerator,
    collections.abc.Iterable,
)
NONE = type(None)


class NotDescribed(Exception):
    """A predictor that cannot be described."""


def _cog() -> Any:
    """The package ``cog`` of the predictor's environment; ours has none."""
    return importlib.import_module("cog")


def describe(mode: str, target: str) -> dict[str, Any]:
    """Schemas of a predictor. ``target``: FILE.py:NAME; without a name, as Cog chooses it."""
    file, _, name = target.partition(":")
    if not pathlib.Path(file).is_file():
        raise NotDescribed(f"cog.yaml names the file {file}, which is not there")
    module = _load_module(file)
    chosen = [name] if name else ["Runner", "Predictor"] if mode == "predict" else ["Trainer"]
    predictor = next(
        (getattr(module, candidate) for candidate in chosen if hasattr(module, candidate)), None
    )
    if predictor is None:
        raise NotDescribed(f"{file} has no {' or '.join(chosen)}")
    where, function = _function(mode, predictor)
    return {
        "input": _input(where, function, is_method=inspect.isclass(predictor)),
        "output": _output(where, function),
        "concurrency": int(getattr(function, "__cog_concurrent_max__", 1)),
        "asynchronous": inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function),
        "description": inspect.cleandoc(function.__doc__ or ""),
        "context": _reads_context(),
    }


def _reads_context() -> bool:
    """True if a file of the project reads ``current_scope().context``, which no schema names."""
    for path in pathlib.Path().rglob("*.py"):
        try:
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        except (OSError, SyntaxError, ValueError):
            continue  # no Python, or not for this one: it is not imported either
        read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        named = {node.id for node in nodes if isinstance(node, ast.Name)}
        if "context" in read and "current_scope" in read | named:
            return True
    return False


def _load_module(file: str) -> types.ModuleType:
    name = pathlib.Path(file).stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NotDescribed(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise NotDescribed(f"{file} cannot be imported: {_place(error, file)}") from error
    return module


def _place(error: BaseException, file: str) -> str:
    """Type and text of an error, with the line of ``file`` where it happened."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if pathlib.Path(trace.tb_frame.f_code.co_filename).name == pathlib.Path(file).name:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" + (f" ({file}, line {line})" if line else "")


def _function(mode: str, target: Any) -> tuple[str, Callable[..., Any]]:
    if inspect.isfunction(target):
        return target.__name__, target
    if not inspect.isclass(target):
        raise NotDescribed(f"{target!r} is neither a class nor a function")
    names = ["run", "predict"] if mode == "predict" else ["train"]
    # Those of Cog's own base classes only say that one must be written.
    own = [
        name
        for name in names
        if (owner := next((base for base in target.__mro__ if name in vars(base)), None))
        is not None
        and owner.__module__.partition(".")[0] != "cog"
    ]
    if len(own) != 1:
        expected = " or ".join(f"{name}()" for name in names)
        problem = f"has both {expected.replace(' or ', ' and ')}" if own else f"has no {expected}"
        raise NotDescribed(f"{target.__name__} {problem}")
    return f"{target.__name__}.{own[0]}", getattr(target, own[0])


def _hints(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise NotDescribed(f"{where}: its types cannot be read: {error}") from error


# Inputs.


def _input(where: str, function: Callable[..., Any], *, is_method: bool) -> dict[str, Any]:
    hints = _hints(where, function)
    parameters = list(inspect.signature(function).parameters.values())[is_method:]
    written = _written_defaults(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for order, parameter in enumerate(parameters):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NotDescribed(f"{where}: *{parameter.name} cannot be described; name its inputs")
        if parameter.name not in hints:
            raise NotDescribed(f"{where}: the input {parameter.name} has no type")
        at = f"{where}: the input {parameter.name}"
        schema, optional = _input_type(at, hints[parameter.name])
        default, is_required = _default(parameter, written, optional=optional)
        field: dict[str, Any] = {
            "title": parameter.name.replace("_", " ").title(),
            "x-order": order,
        }
        field |= schema | _limits(at, schema, parameter.default)
        if default is not None:
            field["default"] = _check_default(at, field, _plain(default))
        elif is_required:
            required.append(parameter.name)
        else:
            field["nullable"] = True
        properties[parameter.name] = field
    input_schema: dict[str, Any] = {"type": "object", "title": "Input", "properties": properties}
    return input_schema | ({"required": required} if required else {})


def _written_defaults(function: Callable[..., Any]) -> dict[str, bool]:
    """Names of inputs with ``Input(…)`` → True if it has a default, also if that is None: the
    object that it makes does not tell."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, SyntaxError, TypeError):
        return {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            named = [*node.args.posonlyargs, *node.args.args]
            pairs = [*zip(reversed(named), reversed(node.args.defaults), strict=False)]
            pairs += [
                (argument, value)
                for argument, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                if value is not None
            ]
            return {
                argument.arg: bool(value.args)
                or any(keyword.arg == "default" for keyword in value.keywords)
                for argument, value in pairs
                if isinstance(value, ast.Call)
            }
    return {}


def _default(
    parameter: inspect.Parameter, written: dict[str, bool], *, optional: bool
) -> tuple[Any, bool]:
    """Default of an input, and True if it must be given."""
    default = parameter.default
    if default is parameter.empty:
        return None, not optional
    if _is_input(default):
        if default.default is not None:
            return default.default, False
        return None, not optional and not written.get(parameter.name, False)
    return default, False


def _is_input(value: Any) -> bool:
    return isinstance(value, _cog().FieldInfo)


def _limits(at: str, schema: dict[str, Any], default: Any) -> dict[str, Any]:
    if not _is_input(default):
        return {}
    kind, limits = schema.get("type"), dict[str, Any]()
    for name, key, kinds in (
        ("ge", "minimum", ("integer", "number")),
        ("le", "maximum", ("integer", "number")),
        ("min_length", "minLength", ("string",)),
        ("max_length", "maxLength", ("string",)),
        ("regex", "pattern", ("string",)),
    ):
        if (value := getattr(default, name, None)) is not None:
            if kind not in kinds:
                raise NotDescribed(f"{at} has {name}, which its type does not allow")
            limits[key] = value
    if default.choices is not None:
        limits["enum"] = [_plain(choice) for choice in default.choices]
    if default.description:
        limits["description"] = default.description
    if default.deprecated:
        limits["deprecated"] = True
    if accept := getattr(default, "accept", None):
        limits["x-cog-accept"] = accept
    return limits


def _check_default(at: str, field: dict[str, Any], value: Any) -> Any:
    """``value``, a default. ``NotDescribed`` if the input itself would not be accepted."""
    if "enum" in field and value not in field["enum"]:
        raise NotDescribed(f"{at} has the default {value!r}, which is none of its choices")
    if isinstance(value, (int, float)):
        low, high = field.get("minimum"), field.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            raise NotDescribed(f"{at} has the default {value!r}, which is out of its range")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, os.PathLike) else value


def _input_type(at: str, type_: Any) -> tuple[dict[str, Any], bool]:
    """Schema of an input's type, and True if the input may be left out."""
    if typing.get_origin(type_) in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(type_) if arg is not NONE]
        optional = len(inner) < len(typing.get_args(type_))
        schemas = [_type(at, member) for member in inner]
        return (schemas[0] if len(schemas) == 1 else {"anyOf": schemas}), optional
    return _type(at, type_), False


# Types.


def _type(at: str, type_: Any) -> dict[str, Any]:  # noqa: PLR0911  # one for each kind of type
    cog = _cog()
    origin, args = typing.get_origin(type_), typing.get_args(type_)
    if origin is typing.Annotated:
        return _opaque(args[0]) if getattr(cog, "Opaque", None) in args[1:] else _type(at, args[0])
    if type_ in SCALARS:
        return dict(SCALARS[type_])
    if type_ is Any:
        return {}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(at, arg) for arg in args]}
    if origin is typing.Literal:
        kinds = {SCALARS.get(type(arg), {}).get("type") for arg in args}
        return {"enum": list(args)} | ({"type": kinds.pop()} if len(kinds) == 1 else {})
    if origin in (list, set, frozenset, tuple, collections.abc.Sequence):
        inner = [arg for arg in args if arg is not Ellipsis]
        return {"type": "array"} | ({"items": _type(at, inner[0])} if len(inner) == 1 else {})
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(at, args[1])}
    if inspect.isclass(type_):
        return _class(at, type_)
    raise NotDescribed(f"{at} has the type {type_}, which cannot be described")


def _opaque(type_: Any) -> dict[str, Any]:
    """Schema of a type that Cog does not look into: an object, or a list of them."""
    is_list = type_ is list or typing.get_origin(type_) is list
    return {"type": "array", "items": {"type": "object"}} if is_list else {"type": "object"}


def _class(at: str, type_: type) -> dict[str, Any]:
    cog = _cog()
    if issubclass(type_, (pathlib.PurePath, cog.File)):
        return {"type": "string", "format": "uri"}
    if issubclass(type_, cog.Secret):
        return {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}
    if issubclass(type_, enum.Enum):
        values = [member.value for member in type_]
        kinds = {SCALARS.get(type(value), {}).get("type") for value in values}
        return {"enum": values} | ({"type": kinds.pop()} if len(kinds) == 1 else {})
    if typing.is_typeddict(type_):
        return {"type": "object"}
    fields = typing.get_type_hints(type_, include_extras=True)
    if issubclass(type_, cog.BaseModel) or hasattr(type_, "model_fields"):
        shown = {name: field for name, field in fields.items() if not _is_hidden(name, field)}
        properties = {
            name: {**_type(at, field), "title": name.replace("_", " ").title()}
            for name, field in shown.items()
        }
        return {"type": "object", "properties": properties}
    raise NotDescribed(f"{at} has the type {type_.__name__}, which Cog cannot send")


def _is_hidden(name: str, type_: Any) -> bool:
    return name.startswith(("_", "model_")) or typing.get_origin(type_) is typing.ClassVar


def _output(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    cog = _cog()
    hints = _hints(where, function)
    if "return" not in hints:
        raise NotDescribed(
            f"{where} does not say what it returns: add a type such as `-> cog.Path`"
        )
    returned, at = hints["return"], f"{where}: its output"
    origin, args = typing.get_origin(returned), typing.get_args(returned)
    concatenated = (cog.ConcatenateIterator, cog.AsyncConcatenateIterator)
    if returned in concatenated or origin in concatenated:
        items: dict[str, Any] = {"type": "string"}
        return {
            "title": "Output",
            "type": "array",
            "items": items,
            "x-cog-array-type": "iterator",
            "x-cog-array-display": "concatenate",
        }
    if origin in STREAMS or returned in STREAMS:
        items = _type(at, args[0]) if args else {}
        stream = {"type": "array", "items": items, "x-cog-array-type": "iterator"}
        return {"title": "Output", **stream}
    return {"title": "Output", **_type(at, returned)}


def main(words: list[str]) -> int:
    # The folder of this program is not one of the predictor's; the current one is.
    sys.path[0] = str(pathlib.Path.cwd())
    shown = sys.stdout
    sys.stdout = sys.stderr  # what the predictor prints on import
    try:
        description: dict[str, Any] = {"cog": _cog().__version__}
        for word in words:
            mode, _, target = word.partition(":")
            description[mode] = describe(mode, target)
    except NotDescribed as error:
        description = {"failed": str(error)}
    shown.write("\n" + json.dumps(description) + "\n")
    return 1 if "failed" in description else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
