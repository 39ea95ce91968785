"""Marks on the fields of an input whose effect differs from fal's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from serve_app.domain.errors import FieldProblem, InvalidInput


@dataclass(frozen=True, slots=True)
class NoEffect:
    """The field is accepted and changes nothing. The request's own log says so, unless the value
    that was sent is one of ``granted``: then what it asks for is what happens anyway."""

    because: str
    granted: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class NotHere:
    """The field would change the outcome, and nothing here can do it: any value that is not empty
    is refused, because leaving it out would give something else than was asked for."""

    because: str


def warnings(model: type[BaseModel], body: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each field of ``body`` that was sent in vain."""
    for name, mark in _marked(model):
        if isinstance(mark, NoEffect) and name in body and body[name] not in mark.granted:
            yield f"{name} has no effect: {mark.because}."


def refuse(model: type[BaseModel], checked: Mapping[str, Any]) -> None:
    """``InvalidInput`` for the fields that ask for what is not here."""
    problems = tuple(
        FieldProblem(("body", name), f"Not supported here: {mark.because}", "feature_not_supported")
        for name, mark in _marked(model)
        if isinstance(mark, NotHere) and checked.get(name)
    )
    if problems:
        first = problems[0]
        raise InvalidInput(f"{first.loc[1]}: {first.message}", problems)


def described(model: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    """``schema``, the JSON schema of ``model``, with the marks in it."""
    for name, mark in _marked(model):
        field: dict[str, Any] = schema["properties"][name]
        said = field.get("description", "")
        if isinstance(mark, NoEffect):
            field["x-darkroom-no-effect"] = True
            field["description"] = f"{said} Has no effect here: {mark.because}.".strip()
        else:
            field["x-darkroom-not-supported"] = True
            field["description"] = f"{said} Refused unless empty: {mark.because}.".strip()
    return schema


def _marked(model: type[BaseModel]) -> Iterator[tuple[str, NoEffect | NotHere]]:
    for name, field in model.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, (NoEffect, NotHere)):
                yield name, mark
