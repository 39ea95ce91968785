"""References of a workflow: texts such as ``$draw.images.0.url``, and what they stand for.

A text that begins with ``$`` is a reference as a whole; ``$$`` begins a text with one ``$``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

INPUT = "input"
ITEM, INDEX = "item", "index"
"""Names of the element, and of its number, in a step that runs for each element of a list."""
EACH = "*"
"""Part of a path: all elements of a list."""
MAX_DIGITS = 18  # of the number of an element
FIRST = "$first"
"""Only key of an object: the first of its values that is there."""

NODE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
FILE = "artifact"
FILE_URL = "artifact_url"
"""Only key of an object in a stored output that becomes the URL of a file."""

Place = tuple[str | int, ...]
Lookup = Callable[[str], Any]


class NotThere(LookupError):
    """A reference stands for nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class Reference:
    """``$source.path``. ``optional``: inside ``$first``, so it may stand for nothing."""

    source: str
    path: tuple[str, ...] = ()
    optional: bool = False

    def __str__(self) -> str:
        return "$" + ".".join((self.source, *self.path))


def parse(value: object) -> Reference | None:
    """Reference that a value is; None if it is none."""
    if not isinstance(value, str) or not value.startswith("$") or value.startswith("$$"):
        return None
    source, *path = value[1:].split(".")
    return Reference(source, tuple(path))


def is_first(value: object) -> bool:
    """Return whether a value is ``{"$first": […]}``."""
    return isinstance(value, Mapping) and [*cast("Mapping[str, Any]", value)] == [FIRST]


def references_in(
    value: Any, place: Place = (), *, optional: bool = False
) -> Iterator[tuple[Place, Reference]]:
    """References inside a value, each with its place."""
    reference = parse(value)
    if reference is not None:
        yield place, Reference(reference.source, reference.path, optional)
    elif isinstance(value, Mapping):
        first = is_first(value)
        for name, inner in cast("Mapping[str, Any]", value).items():
            yield from references_in(inner, (*place, name), optional=optional or first)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(cast("Sequence[Any]", value)):
            yield from references_in(inner, (*place, number), optional=optional)


def resolve(value: Any, lookup: Lookup) -> Any:
    """Value with what its references stand for. ``lookup``: value of a source; ``NotThere``, also
    if a path leads nowhere."""
    reference = parse(value)
    if reference is not None:
        return follow(lookup(reference.source), reference)
    if is_first(value):
        return _first(value[FIRST], lookup)
    if isinstance(value, str):
        return value[1:] if value.startswith("$$") else value
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        return {name: resolve(inner, lookup) for name, inner in fields.items()}
    if isinstance(value, (list, tuple)):
        return [resolve(inner, lookup) for inner in cast("Sequence[Any]", value)]
    return value


def _first(choices: Any, lookup: Lookup) -> Any:
    if not isinstance(choices, (list, tuple)):
        raise NotThere(f"`{FIRST}` should have a list of values")
    for choice in cast("Sequence[Any]", choices):
        try:
            value = resolve(choice, lookup)
        except NotThere:
            continue
        if value is not None:
            return value
    return None


def follow(value: Any, reference: Reference) -> Any:
    """What a reference's path leads to, from the value of its source. ``NotThere``."""
    return _follow(value, reference, reference.path)


def _follow(value: Any, reference: Reference, path: Sequence[str]) -> Any:
    for number, part in enumerate(path):
        if part == EACH:
            if not isinstance(value, list):
                raise NotThere(f"`{reference}`: there is no list for `*`")
            elements = cast("list[Any]", value)
            return [_follow(element, reference, path[number + 1 :]) for element in elements]
        value = _part(value, part, reference)
    return value


def _part(value: Any, part: str, reference: Reference) -> Any:
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        if not (part.isascii() and part.isdecimal()):
            raise NotThere(f"`{reference}`: a list has numbers, not `{part}`")
        # Python converts no text of thousands of digits.
        if len(part) > MAX_DIGITS or int(part) >= len(elements):
            raise NotThere(f"`{reference}`: the list has {len(elements)} elements")
        return elements[int(part)]
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if part in fields:
            return fields[part]
        if part == "url" and isinstance(fields.get(FILE), str):
            return {FILE_URL: fields[FILE]}
        known = ", ".join(sorted(map(str, fields))[:8]) or "nothing"
        raise NotThere(f"`{reference}`: there is no `{part}`, only {known}")
    raise NotThere(f"`{reference}`: there is no `{part}`")


# Files in outputs. An object with the key ``artifact`` is a file of Darkroom's own, by the name of
# its object in storage. What clients send may look the same and must never become one.


def file_key(value: object) -> str | None:
    """Key of the file that an object of a stored output is; None if it is none."""
    if not isinstance(value, Mapping):
        return None
    fields = cast("Mapping[str, Any]", value)
    key = fields.get(FILE)
    if isinstance(key, str):
        return key
    key = fields.get(FILE_URL)
    return key if isinstance(key, str) and len(fields) == 1 else None


def files_in(value: Any) -> Iterator[str]:
    """Keys of all files in an output."""
    key = file_key(value)
    if key is not None:
        yield key
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[str, Any]", value).values():
            yield from files_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in cast("Sequence[Any]", value):
            yield from files_in(inner)


def with_files(value: Any, of: Callable[[Mapping[str, Any], str], Any]) -> Any:
    """Value with ``of(object, key)`` in place of each object that is a file."""
    key = file_key(value)
    if key is not None:
        return of(cast("Mapping[str, Any]", value), key)
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        return {name: with_files(inner, of) for name, inner in fields.items()}
    if isinstance(value, (list, tuple)):
        return [with_files(inner, of) for inner in cast("Sequence[Any]", value)]
    return value
