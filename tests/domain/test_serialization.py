"""Updates: each version can read what the other sends."""

from __future__ import annotations

import base64
import io
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain import serialization as module
from serve_app.domain.serialization import pickle_by_name
from tests.domain.crossing import EXAMPLES

RECORDED = {
    name: base64.b64decode(encoded)
    for name, encoded in json.loads(Path(__file__).with_name("crossing.json").read_text()).items()
}
"""Recorded from the previous version."""


def read(pickled: bytes) -> Any:
    return pickle.loads(pickled)  # noqa: S301 our own


def classes_of(pickled: bytes) -> set[tuple[str, str]]:
    """Classes that a reader must know."""
    classes: set[tuple[str, str]] = set()

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            classes.add((module, name))
            return super().find_class(module, name)

    Reader(io.BytesIO(pickled)).load()
    return classes


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_version_before_sent_is_read(name: str) -> None:
    assert read(RECORDED[name]) == EXAMPLES[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_version_before_knows_all_classes_that_are_sent_to_it(name: str) -> None:
    known = set[tuple[str, str]]().union(*map(classes_of, RECORDED.values()))
    assert classes_of(pickle.dumps(EXAMPLES[name], 5)) <= known


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_read_as_it_was_sent(name: str) -> None:
    assert read(pickle.dumps(EXAMPLES[name], 5)) == EXAMPLES[name]


# Versions of one class. The first sends only its values, as before names were sent.


@dataclass(frozen=True, slots=True)
class Nameless:
    pool: str
    slots: int
    hot: tuple[str, ...] = ()


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Today:
    pool: str
    slots: int
    hot: tuple[str, ...] = ()
    detail: str = "none"
    more: dict[str, int] = field(default_factory=dict[str, int])


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Tomorrow:
    """Next version: the order has changed, one field is new and one is removed."""

    detail: str = "none"
    colour: str = "red"
    pool: str = ""
    slots: int = 0
    more: dict[str, int] = field(default_factory=dict[str, int])


@pickle_by_name
@dataclass(frozen=True)
class WithAttributes:
    pool: str
    detail: str = "none"
    more: dict[str, int] = field(default_factory=dict[str, int])


@pickle_by_name
@dataclass(frozen=True, slots=True)
class OfOne:
    values: tuple[str, ...] = ()


def read_as(kind: type, sent: Any) -> Any:
    """Unpickle in a process for which the class name means ``kind``."""

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return kind if name == type(sent).__name__ else super().find_class(module, name)

    return Reader(io.BytesIO(pickle.dumps(sent, 5))).load()


def test_a_field_that_was_not_sent_has_its_default() -> None:
    assert read_as(Today, Nameless("a", 2, ("x",))) == Today("a", 2, ("x",))
    assert read_as(Tomorrow, Today("a", 2)) == Tomorrow("none", "red", "a", 2)


def test_a_field_that_is_not_known_is_passed_over() -> None:
    assert read_as(Nameless, Today("a", 2, ("x",), "d", {"n": 1})) == Nameless("a", 2, ("x",))
    assert read_as(Today, Tomorrow("d", "blue", "a", 2, {"n": 1})) == Today(
        "a", 2, (), "d", {"n": 1}
    )


def test_so_it_is_for_a_class_without_slots() -> None:
    class Before:
        def __init__(self) -> None:
            self.__dict__.update(pool="a", gone=1)

        def __reduce__(self) -> Any:
            return object.__new__, (WithAttributes,), self.__dict__

    restored = read(pickle.dumps(Before()))
    assert restored == WithAttributes("a")
    assert restored.more == {}


def test_a_class_of_one_field_is_read_as_it_was_sent() -> None:
    for value in ((), ("a",), (module.MARK,)):
        assert read(pickle.dumps(OfOne(value))) == OfOne(value)


def test_without_a_default_the_error_names_what_is_missing() -> None:
    with pytest.raises(TypeError, match="sent a Today without pool"):
        read_as(Today, OfOne(("x",)))
