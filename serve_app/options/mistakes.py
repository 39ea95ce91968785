"""Mistakes that pydantic finds in options and settings: their paths, and sentences about them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Place = tuple[str | int, ...]
"""Path of a value: keys, and indexes of lists."""

MAX_LISTED_KEYS = 40
UNKNOWN_KEY, NO_MAPPING = "extra_forbidden", "model_type"  # pydantic's types of errors

ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], value: object, at: str = "") -> ModelT:
    """Return ``value`` as an instance of ``model``. ``ValueError`` names each mistake and its path,
    which begins with ``at``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ValueError(mistakes_text(model, error, at)) from None


def mistakes_text(
    model: type[BaseModel],
    error: ValidationError,
    at: str = "",
    *,
    skip: int = 0,
    known: Iterable[str] = (),
) -> str:
    """Each mistake with its path: ``at``, and its place without the first ``skip`` parts.
    ``known``: keys at the top, if they are not those of ``model``."""
    lines: list[str] = []
    for place, what in mistakes_of(model, error, known):
        path = ".".join(filter(None, (at, *map(str, place[skip:]))))
        lines.append(f"{path}: {what}" if path else what)
    return "; ".join(lines)


def mistakes_of(
    model: type[BaseModel], error: ValidationError, known: Iterable[str] = ()
) -> Iterator[tuple[Place, str]]:
    """Place and sentence of each mistake that ``model`` has found, without the values. ``known``:
    as in ``mistakes_text``.

    Unknown keys first: `famly` is the reason that `family` is missing.
    """
    details = error.errors(include_url=False, include_input=False)
    for detail in sorted(details, key=lambda detail: detail["type"] != UNKNOWN_KEY):
        place = detail["loc"]
        if detail["type"] == UNKNOWN_KEY:
            name, where = str(place[-1]), place[:-1]
            at_top = known if len(where) <= 1 else ()
            yield place, unknown_key(name, at_top or _keys_at(model, where))
        elif detail["type"] == NO_MAPPING:  # pydantic names the class
            yield place, "Input should be an object with keys"
        else:
            # Pydantic writes this before the words of our own checks.
            yield place, detail["msg"].removeprefix("Value error, ")


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Sentence about an unknown key, with the nearest known one, or all of them if they are few."""
    keys = sorted(known)
    if near := difflib.get_close_matches(name, keys, n=1, cutoff=0.5):
        return f"unknown key `{name}`; did you mean `{near[0]}`?"
    listed = f"; known are {', '.join(keys)}" if len(keys) <= MAX_LISTED_KEYS else ""
    return f"unknown key `{name}`{listed}"


def _keys_at(model: type[BaseModel], place: Place) -> Iterator[str]:
    """Keys of the object at ``place`` inside a ``model``."""
    for part in place:
        field = _fields(model).get(str(part))
        if field is not None:  # otherwise an index, or a key of a mapping
            model = next(_models_in(field.annotation), model)
    yield from _fields(model)


def _fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Fields of ``model`` by their keys in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
