"""Types of fal's endpoints, as fal's JavaScript client declares them.

``python -m scripts.fal_types`` writes the file that this module reads. It has two lines of JSON, so
that the ids are read without the fields: the endpoints, and the objects that they refer to.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

FILE = Path(__file__).with_name("fal_types.json.gz")


class Plain(StrEnum):
    """Types without parts, by the words of TypeScript where it has one."""

    TEXT = "string"
    NUMBER = "number"  # an integer or a float: TypeScript does not tell them apart
    BOOLEAN = "boolean"
    FILE = "file"  # string | Blob | File: a URL; the client uploads what is none
    UNKNOWN = "unknown"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several texts."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListOf:
    item: FalType


@dataclass(frozen=True, slots=True)
class ObjectOf:
    """Object whose fields are ``fal_object(name)``."""

    name: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """Value of any of several types. At most one of them is a ``Choice``."""

    types: tuple[FalType, ...]


FalType = Plain | Choice | ListOf | ObjectOf | OneOf
Default = str | int | float | bool


@dataclass(frozen=True, slots=True)
class FalField:
    type: FalType
    required: bool
    default: Default | None = None
    """None: no default is stated. fal's client never states ``false``, 0, or an empty list."""


FalFields = Mapping[str, FalField]
"""Fields by name, in fal's order."""


@dataclass(frozen=True, slots=True)
class FalClient:
    """Release of fal's client that declares the types."""

    version: str
    released: str  # date


def fal_client() -> FalClient:
    return FalClient(**_endpoints()["client"])


@cache
def fal_ids() -> frozenset[str]:
    """Ids of all endpoints that fal's client declares."""
    return frozenset(_endpoints()["endpoints"])


def fal_input(endpoint_id: str) -> FalFields | None:
    """Fields of the input of an endpoint of fal's. None: fal's client does not know the id.

    The first call reads a file, also that of the functions below.
    """
    return _side(endpoint_id, 0)


def fal_output(endpoint_id: str) -> FalFields | None:
    """Fields of the output, as ``fal_input``."""
    return _side(endpoint_id, 1)


@cache
def fal_object(name: str) -> FalFields:
    """Fields of a named object. ``KeyError``: there is no such object."""
    return MappingProxyType(
        {
            field: FalField(_type_of(type_), bool(required), *default)
            for field, type_, required, *default in _objects()[name]
        }
    )


def _side(endpoint_id: str, side: int) -> FalFields | None:
    names = _endpoints()["endpoints"].get(endpoint_id)
    return None if names is None else fal_object(names[side])


def _type_of(value: Any) -> FalType:
    match value:
        case str():
            return Plain(value)
        case {"choice": values}:
            return Choice(tuple(values))
        case {"list": item}:
            return ListOf(_type_of(item))
        case {"object": name}:
            return ObjectOf(name)
        case {"one_of": types}:
            return OneOf(tuple(map(_type_of, types)))
        case _:
            raise ValueError(f"{FILE.name} has an unknown type: {value!r}")


@cache
def _endpoints() -> dict[str, Any]:
    return _line(0)


@cache
def _objects() -> dict[str, Any]:
    return _line(1)


def _line(number: int) -> dict[str, Any]:
    with gzip.open(FILE) as file:
        return json.loads(next(islice(file, number, None)))
