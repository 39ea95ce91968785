"""Apps: classes whose methods are endpoints, and the schemas of their inputs and outputs."""

from __future__ import annotations

import inspect
import json
import typing
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from darkroom.calls import is_async
from darkroom.errors import AppError
from darkroom.files import PATH_KEY, File, file_as_json, input_files, noted_files

Method = TypeVar("Method", bound=Callable[..., Any])

PATH_MARK = "_darkroom_path"

ASYNC_STREAMS = (AsyncIterator, AsyncGenerator)
STREAMS = (Iterator, Generator, *ASYNC_STREAMS)


class App:
    """Base class of apps. Darkroom creates one instance in each worker process, without arguments,
    and calls ``setup`` once."""

    name: ClassVar[str] = ""
    """Second part of the endpoints' ids; empty: the class's name in lower case."""

    requirements: ClassVar[Sequence[str] | None] = None
    """Packages as in ``requirements.txt``, for an environment of the app's own. None: Darkroom's
    own environment, which has torch, diffusers and Pillow."""

    gpu: ClassVar[str | None] = None
    """Class of GPU by Ray's name, such as ``L4``; ``any`` for every one. None: no GPU."""

    concurrency: ClassVar[int] = 1
    """Requests that one worker process runs at once."""

    secrets: ClassVar[Sequence[str]] = ()
    """Names of secrets that an operator has set, such as ``["HF_TOKEN"]``. Only the process of the
    app gets them, as variables."""

    start_timeout_s: ClassVar[float] = 600.0
    """Longest time for the import and ``setup``."""

    def setup(self) -> None:
        """Prepare the app, such as by loading weights. May be ``async``."""

    @cached_property  # an app may have an attribute of this name
    def settings(self) -> dict[str, Any]:
        """Content of ``settings.json`` beside the file of the class; without one, nothing.
        ``darkroom deploy app.py --with settings.json`` brings it along."""
        path = Path(inspect.getfile(type(self))).with_name("settings.json")
        if not path.is_file():
            return {}
        try:
            content: Any = json.loads(path.read_bytes())
        except ValueError as error:
            raise AppError(f"settings.json is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise AppError("settings.json must have one JSON object.")
        return cast("dict[str, Any]", content)

    def teardown(self) -> None:
        """Called before the process ends, unless it is killed. May be ``async``."""


def endpoint(path: str = "/") -> Callable[[Method], Method]:
    """Make a method of an app an endpoint. ``path`` is appended to the app's id."""
    if not isinstance(path, str):
        raise TypeError('write @darkroom.endpoint("/"), with the path in parentheses')
    if not path.startswith("/"):
        raise ValueError(f"the path of an endpoint begins with a slash: {path!r}")

    def mark(method: Method) -> Method:
        setattr(method, PATH_MARK, path.rstrip("/") or "/")
        return method

    return mark


@dataclass(frozen=True)
class EndpointMethod:
    """One endpoint of an app: how its method is called, and what it returns."""

    path: str
    name: str  # of the method
    model: type[BaseModel]  # of the input
    unpacked: bool  # the fields are arguments of the method, not one model
    output: TypeAdapter[Any]
    streams: bool = False  # its result is an iterator
    is_async: bool = False  # it runs on the event loop
    description: str = ""
    wrap: str = ""  # key that the output is sent under, because it is no object of its own

    def arguments(self, fields: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the method. Raises pydantic's ``ValidationError``."""
        with input_files():
            model = self.model.model_validate(fields)
        if not self.unpacked:
            return (model,), {}
        return (), {name: getattr(model, name) for name in self.model.model_fields}

    def plain(self, result: Any) -> dict[str, Any]:
        """A result as JSON, where objects stand for files. Raises ``AppError`` if it does not
        have the declared type."""
        try:
            with noted_files() as files:
                checked = self.output.validate_python(result)
                output = self.output.dump_python(
                    checked, mode="json", by_alias=True, fallback=file_as_json
                )
        except PydanticSerializationError as error:
            raise AppError(f"{self.name} returned what cannot be sent as JSON: {error}.") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise AppError(
                f"{self.name} returned something else than it declares: "
                f"{where + ': ' if where else ''}{first['msg']}."
            ) from error
        if not _named_files(output) <= files:
            raise AppError(f"{self.name} returned a field {PATH_KEY}, whose name is reserved.")
        return {self.wrap: output} if self.wrap else cast("dict[str, Any]", output)

    def input_schema(self) -> dict[str, Any]:
        schema = _inline_top_reference(self.model.model_json_schema(by_alias=True))
        return {**schema, "x-fal-order-properties": list(schema.get("properties", {}))}

    def output_schema(self) -> dict[str, Any]:
        schema = _inline_top_reference(self.output.json_schema(mode="serialization", by_alias=True))
        if self.wrap:
            definitions = schema.pop("$defs", None)
            properties = {self.wrap: schema}
            schema = {"type": "object", "properties": properties, "required": [self.wrap]}
            schema |= {"$defs": definitions} if definitions else {}
        return {**schema, "x-fal-order-properties": list(schema.get("properties", {}))}


def _inline_top_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema`` without a reference at its top, which pydantic makes of a model that contains
    itself."""
    reference = schema.get("$ref", "")
    if not reference.startswith("#/$defs/"):
        return schema
    rest = {name: value for name, value in schema.items() if name != "$ref"}
    return {**rest, **schema["$defs"][reference.removeprefix("#/$defs/")]}


def _named_files(value: Any) -> set[str]:
    """Paths in all objects of ``value`` that look like files."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        own = {fields[PATH_KEY]} if isinstance(fields.get(PATH_KEY), str) else set[str]()
        return own.union(*map(_named_files, fields.values()))
    if isinstance(value, list):
        return set[str]().union(*map(_named_files, cast("list[Any]", value)))
    return set()


def endpoints_of(app: type[App]) -> dict[str, EndpointMethod]:
    """Endpoints of an app by path. Raises ``TypeError`` with the method that is not usable."""
    endpoints: dict[str, EndpointMethod] = {}
    for name, method in inspect.getmembers(app, callable):
        path = getattr(method, PATH_MARK, None)
        if path is None:
            continue
        if path in endpoints:
            raise TypeError(
                f"{app.__name__}: {endpoints[path].name} and {name} have the path {path}"
            )
        endpoints[path] = _endpoint(app, path, name, method)
    if not endpoints:
        raise TypeError(f"{app.__name__} has no method with @darkroom.endpoint")
    return endpoints


def _endpoint(app: type[App], path: str, name: str, method: Callable[..., Any]) -> EndpointMethod:
    where = f"{app.__name__}.{name}"
    if isinstance(inspect.getattr_static(app, name), staticmethod | classmethod):
        raise TypeError(f"{where} must be a method with `self`")
    try:
        hints = typing.get_type_hints(method, include_extras=True)
    except (AttributeError, NameError, SyntaxError, TypeError) as error:
        raise TypeError(f"{where}: {error}; its annotations must be importable") from error
    if "return" not in hints:
        raise TypeError(f"{where} does not say what it returns: add `-> Output`")
    returned, streams = _unwrap_stream(where, hints["return"])
    parameters = list(inspect.signature(method).parameters.values())[1:]
    for parameter in parameters:
        _check_argument(where, parameter, hints)
    first = hints[parameters[0].name] if len(parameters) == 1 else None
    takes_model = isinstance(first, type) and issubclass(first, BaseModel)
    model = first if takes_model else _model(name, parameters, hints)
    output = _adapter(
        f"{where} returns a type that JSON cannot describe", returned, "serialization"
    )
    text = inspect.getdoc(method) or ""
    wrap = _wrap(returned, output)
    on_loop = is_async(method) or typing.get_origin(hints["return"]) in ASYNC_STREAMS
    return EndpointMethod(path, name, model, not takes_model, output, streams, on_loop, text, wrap)


def _check_argument(where: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> None:
    name = parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"{where}: *{name} cannot be described; name its arguments")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise TypeError(f"{where}: the argument {name} must be usable by its name: remove the `/`")
    if name not in hints:
        raise TypeError(f"{where}: the argument {name} has no type")
    if name.startswith("_") or (hasattr(BaseModel, name) and name.startswith("model_")):
        raise TypeError(f"{where}: the argument {name} cannot be a field; rename it")
    _adapter(f"{where}: the argument {name} has a type that JSON cannot describe", hints[name])


def _adapter(
    problem: str, type_: Any, mode: Literal["validation", "serialization"] = "validation"
) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(type_)
        adapter.json_schema(mode=mode)
    except PydanticUserError as error:
        raise TypeError(f"{problem}: {error.message.partition(chr(10))[0]}") from error
    return adapter


def _wrap(returned: Any, output: TypeAdapter[Any]) -> str:
    """Key of an output that is no object: of a file its kind, else ``output``."""
    if isinstance(returned, type) and issubclass(returned, File):
        return returned.kind
    schema = _inline_top_reference(output.json_schema(mode="serialization"))
    return "" if schema.get("type") == "object" else "output"


def _unwrap_stream(where: str, returned: Any) -> tuple[Any, bool]:
    """Type of the values of a generator, or of the result; and whether it is a generator."""
    if returned in STREAMS:
        raise TypeError(f"{where} does not say what it yields: write `-> Iterator[Output]`")
    if typing.get_origin(returned) in STREAMS:
        return typing.get_args(returned)[0], True
    return returned, False


def _model(
    name: str, parameters: Sequence[inspect.Parameter], hints: dict[str, Any]
) -> type[BaseModel]:
    fields: dict[str, Any] = {
        parameter.name: (
            hints[parameter.name],
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
    }
    model_name = "".join(part.capitalize() for part in name.split("_")) + "Input"
    with warnings.catch_warnings():
        # Fields such as `copy` hide methods of models that nobody calls.
        warnings.simplefilter("ignore", UserWarning)
        return create_model(
            model_name, __config__=ConfigDict(arbitrary_types_allowed=False), **fields
        )
