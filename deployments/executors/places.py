"""Places of files in inputs and outputs of apps, and what is said of them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, cast

from darkroom.media_types import DEFAULT_MEDIA_TYPE, suffix_of_type
from deployments.executors.base import FILE_MARK, PATH_KEY, MadeFile
from serve_app.domain.media.data_uri import is_data_uri, media_type_of_data_uri

ARTIFACT = "artifact"
"""Key of the object that stands for a stored file in an outcome."""

_RESERVED = (PATH_KEY, "media_type", "generated", ARTIFACT, "url")
"""Fields of a file that an app does not decide about."""

Place = tuple[str | int, ...]

Schema = Mapping[str, Any]


def file_places(value: Any, schema: Schema, root: Schema | None = None) -> Iterator[Place]:
    """Places in ``value``, which ``schema`` accepts, where it has a file that is given by a URL.
    Each is named once."""
    root = schema if root is None else root
    known: set[Place] = set()
    for part in _applicable_schemas(value, schema, root):
        places = [()] if FILE_MARK in part and isinstance(value, str) else _inner(value, part, root)
        for place in places:
            if place not in known:
                known.add(place)
                yield place


def _applicable_schemas(value: Any, schema: Schema, root: Schema) -> Iterator[Schema]:
    """Schemas that say something about the same value: of a union, those that accept it."""
    yield schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix("#/$defs/")
        yield from _applicable_schemas(value, root.get("$defs", {}).get(name, {}), root)
    for branch in schema.get("allOf", ()):
        if isinstance(branch, Mapping):
            yield from _applicable_schemas(value, cast("Schema", branch), root)
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if isinstance(branch, Mapping) and _accepts(cast("Schema", branch), value, root):
            yield from _applicable_schemas(value, cast("Schema", branch), root)


def _accepts(schema: Schema, value: Any, root: Schema) -> bool:
    """Check what tells the branches of a union apart: types, constants and required fields."""
    if not _fits(schema, value):
        return False
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
        if not _accepts(target, value, root):
            return False
    if not isinstance(value, Mapping):
        return True
    fields = cast("Mapping[str, Any]", value)
    known = cast("Mapping[str, Any]", schema.get("properties", {}))
    return all(name in fields for name in schema.get("required", ())) and all(
        _fits(under, fields[name])
        for name, under in known.items()
        if name in fields and isinstance(under, Mapping)
    )


def _fits(schema: Schema, value: Any) -> bool:
    declared = schema.get("type", ())
    types = (declared,) if isinstance(declared, str) else declared
    return (
        (not types or any(_IS_TYPE[type_name](value) for type_name in types))
        and ("const" not in schema or schema["const"] == value)
        and ("enum" not in schema or value in schema["enum"])
    )


_IS_TYPE: Mapping[str, Callable[[Any], bool]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, Mapping),
    "string": lambda value: isinstance(value, str),
}


def _inner(value: Any, schema: Schema, root: Schema) -> Iterator[Place]:
    for part, inner, under in _parts(value, schema):
        for place in file_places(inner, under, root):
            yield (part, *place)


def _parts(value: Any, schema: Schema) -> Iterator[tuple[str | int, Any, Schema]]:
    """Parts of an object or a list, with their schemas."""
    parts: list[tuple[str | int, Any, Any]] = []
    if isinstance(value, Mapping):
        known = cast("Mapping[str, Any]", schema.get("properties", {}))
        patterns = cast("Mapping[str, Any]", schema.get("patternProperties", {}))
        for name, inner in cast("Mapping[str, Any]", value).items():
            under = [known[name]] if name in known else []
            under = under or [*patterns.values(), schema.get("additionalProperties")]
            parts += [(name, inner, subschema) for subschema in under]
    elif isinstance(value, list):
        first = cast("Sequence[Any]", schema.get("prefixItems", ()))
        for number, inner in enumerate(cast("list[Any]", value)):
            under = first[number] if number < len(first) else schema.get("items")
            parts.append((number, inner, under))
    for part, inner, under in parts:
        if isinstance(under, Mapping):
            yield part, inner, cast("Schema", under)


def replace_at(value: Any, place: Place, new: Any) -> Any:
    """Copy of ``value`` with ``new`` at ``place``."""
    if not place:
        return new
    first, *rest = place
    copy: Any = dict(cast("Schema", value)) if isinstance(value, Mapping) else list(value)
    copy[first] = replace_at(copy[first], tuple(rest), new)
    return copy


def at(value: Any, place: Place) -> Any:
    for part in place:
        value = value[part]
    return value


def local_files(value: Any) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Files of this machine in an output, with their places. An object that only looks like one is
    none: its text may be a client's or a provider's."""
    return _objects(value, lambda fields: isinstance(fields, MadeFile))


def objects_with(key: str, value: Any) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Objects whose field ``key`` is a text, with their places. Not those inside of such ones."""
    return _objects(value, lambda fields: isinstance(fields.get(key), str))


def _objects(
    value: Any, is_wanted: Callable[[Mapping[str, Any]], bool], place: Place = ()
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if is_wanted(fields):
            yield place, fields
            return
        for name, inner in fields.items():
            yield from _objects(inner, is_wanted, (*place, name))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(cast("Sequence[Any]", value)):
            yield from _objects(inner, is_wanted, (*place, number))


def place_of_no_number(value: Any, place: Place = ()) -> Place | None:
    """First place in an object or a list with a number that JSON does not have: NaN or infinity."""
    parts: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(cast("Sequence[Any]", value))
    for part, inner in parts:
        if isinstance(inner, float):
            if not isfinite(inner):
                return (*place, part)
        elif (found := place_of_no_number(inner, (*place, part))) is not None:
            return found
    return None


def with_made_files(output: Any, places: Iterable[Sequence[str | int]]) -> Any:
    """Output of a worker process, with a ``MadeFile`` at each of the places where it has a file."""
    for place in places:
        output = replace_at(output, tuple(place), MadeFile(at(output, tuple(place))))
    return output


def media_type_of(file: Mapping[str, Any]) -> str:
    return str(file.get("media_type") or DEFAULT_MEDIA_TYPE)


def facts_of(file: Mapping[str, Any]) -> dict[str, Any]:
    """What an app says of a file, for clients."""
    return {key: value for key, value in file.items() if key not in _RESERVED}


def pixels_of(facts: Mapping[str, Any], name: str) -> int | None:
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def suffix_of(url: str) -> str:
    """Extension for a local copy, so that libraries that look at names know the format."""
    if is_data_uri(url):
        return suffix_of_type(media_type_of_data_uri(url))
    suffix = Path(url.partition("?")[0].partition("#")[0]).suffix
    return suffix if len(suffix) <= 6 and suffix[1:].isalnum() else ""
