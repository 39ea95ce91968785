"""Marks for input fields that have another effect than at fal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from serve_app.domain.errors import FieldProblem, InvalidInput


@dataclass(frozen=True, slots=True)
class NoEffect:
    """The field is accepted and changes nothing. The request's own log says so, unless the value is
    one of ``granted``: then it asks for what happens anyway."""

    because: str
    granted: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class NotSupported:
    """The field would change the outcome, but is not supported here. Any value that is neither
    empty nor one of ``granted`` is refused, because ignoring it would give another result than
    requested."""

    because: str
    granted: tuple[Any, ...] = ()

    def refuses(self, value: Any) -> bool:
        return bool(value) and value not in self.granted


Marks = Mapping[str, NoEffect | NotSupported]
"""Field → mark."""


def marks(model: type[BaseModel]) -> Marks:
    """Marks of an input model. Looked up once, since every request needs them."""
    return {
        name: mark
        for name, field in model.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, (NoEffect, NotSupported))
    }


def marks_of_items(model: type[BaseModel]) -> Mapping[str, tuple[str, Marks]]:
    """Marks of fields that are lists of objects: field → (name of the objects' model, marks)."""
    by_field: dict[str, tuple[str, Marks]] = {}
    for name, field in model.model_fields.items():
        for item in _items(field.annotation):
            by_field[name] = item.__name__, marks(item)
    return by_field


def _items(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models of the objects of a list, which may be optional or annotated."""
    if get_origin(annotation) is not list:
        inner = get_args(annotation)
        for argument in inner[:1] if get_origin(annotation) is Annotated else inner:
            yield from _items(argument)
        return
    (item,) = get_args(annotation)
    item = get_args(item)[0] if get_origin(item) is Annotated else item
    if isinstance(item, type) and issubclass(item, BaseModel):
        yield item


def warnings(marked: Marks, body: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Warnings for fields of ``body`` that have no effect. ``within``: prefix of their names."""
    for name in sorted(marked.keys() & body.keys()):
        mark = marked[name]
        if isinstance(mark, NoEffect) and body[name] not in mark.granted:
            yield f"{within}{name} has no effect: {mark.because}."


def refuse(marked: Marks, checked: Mapping[str, Any], within: tuple[str | int, ...] = ()) -> None:
    """Raise ``InvalidInput`` for fields that ask for something unsupported. ``within``: place of
    ``checked`` in the input."""
    problems = tuple(
        FieldProblem(
            ("body", *within, name), f"Not supported here: {mark.because}", "feature_not_supported"
        )
        for name, mark in marked.items()
        if isinstance(mark, NotSupported) and mark.refuses(checked.get(name))
    )
    if problems:
        raise InvalidInput.of_problems(problems)


def add_marks(marked: Marks, schema: dict[str, Any]) -> dict[str, Any]:
    """Add the marks to ``schema``, the JSON schema of the marked model."""
    for name, mark in marked.items():
        field: dict[str, Any] = schema["properties"][name]
        field["x-darkroom-granted"] = list(mark.granted)
        text = field.get("description", "")
        if isinstance(mark, NoEffect):
            field["x-darkroom-no-effect"] = True
            field["description"] = f"{text} Has no effect here: {mark.because}.".strip()
        else:
            field["x-darkroom-not-supported"] = True
            allowed = " or ".join(str(value) for value in mark.granted) or "empty"
            field["description"] = f"{text} Refused unless {allowed}: {mark.because}.".strip()
    return schema
