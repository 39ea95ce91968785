"""Pickling by field name, for objects that two versions of Darkroom exchange.

An update replaces ingress processes and replicas one by one, so both versions run side by side for
a while. By default, a frozen dataclass with slots is pickled as the values of its fields, in order:
a version with one more or fewer fields would mix up the values. So the names are pickled too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")

MARK = "by name"
"""First of the names, which follow the values. A reader that takes only as many values as it has
fields ignores the names; versions before this format do that."""


def pickle_by_name(kind: type[T]) -> type[T]:
    """Class decorator, placed above ``@dataclass``. A reader ignores fields that it does not know
    and uses the defaults of missing ones. So a new field needs a default and a plain value, since
    another version cannot read a new class. New fields come last, because some versions send or
    read values without names."""
    known: Mapping[str, Field[Any]] = {each.name: each for each in fields(kind)}  # pyright: ignore[reportArgumentType]
    names = (MARK, *known)
    values = attrgetter(*known)
    single = len(known) == 1

    def get_state(self: Any) -> list[Any]:
        return [values(self), names] if single else [*values(self), names]

    def set_state(self: Any, state: Sequence[Any]) -> None:
        if state[-1:] == [names]:
            told: Iterable[tuple[str, Any]] = zip(known, state, strict=False)
        else:
            found = _named(state, known)
            told = ((name, _value(kind, each, found)) for name, each in known.items())
        for name, value in told:
            object.__setattr__(self, name, value)

    def set_attributes(self: Any, state: Mapping[str, Any]) -> None:
        own = {name: _value(kind, each, state) for name, each in known.items()}
        self.__dict__.update(state, **own)

    if "__slots__" in vars(kind):
        kind.__getstate__ = get_state  # pyright: ignore[reportAttributeAccessIssue]
        kind.__setstate__ = set_state  # pyright: ignore[reportAttributeAccessIssue]
    else:  # without slots, the state already has names
        kind.__setstate__ = set_attributes  # pyright: ignore[reportAttributeAccessIssue]
    return kind


def _named(state: Any, known: Iterable[str]) -> Mapping[str, Any]:
    last = state[-1] if state else None
    if isinstance(last, tuple) and last[:1] == (MARK,):
        return dict(zip(last[1:], state, strict=False))
    return dict(zip(known, state, strict=False))


def _value(kind: type, field: Field[Any], found: Mapping[str, Any]) -> Any:
    if field.name in found:
        return found[field.name]
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    raise TypeError(f"Another version sent a {kind.__name__} without {field.name}, which it needs.")
