"""Text of the data file, and what is new in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from scripts.fal_types.declarations import Declarations, names_in
from serve_app.catalog.fal_types import (
    Choice,
    FalClient,
    FalField,
    FalFields,
    FalType,
    ListOf,
    ObjectOf,
    OneOf,
    Plain,
    fal_ids,
    fal_input,
    fal_object,
    fal_output,
)

SIDES = (("input", fal_input), ("output", fal_output))


def data_text(declarations: Declarations, client: FalClient) -> str:
    """The two lines that ``serve_app.catalog.fal_types`` reads. The same for the same arguments."""
    lines = (
        {"client": asdict(client), "endpoints": declarations.endpoints},
        {
            name: [_encoded_field(key, field) for key, field in fields.items()]
            for name, fields in declarations.objects.items()
        },
    )
    return "".join(
        json.dumps(line, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n"
        for line in lines
    )


def _encoded_field(name: str, field: FalField) -> list[Any]:
    default = [] if field.default is None else [field.default]
    return [name, _encoded(field.type), int(field.required), *default]


def _encoded(type_: FalType) -> Any:
    match type_:
        case Plain():
            return type_
        case Choice(values):
            return {"choice": values}
        case ListOf(item):
            return {"list": _encoded(item)}
        case ObjectOf(name):
            return {"object": name}
        case OneOf(types):
            return {"one_of": [_encoded(member) for member in types]}


def changes(declarations: Declarations) -> Iterator[str]:
    """Differences to the data file as it is, a line for each: ids, and fields of inputs and
    outputs with those of the objects in them."""
    old, new = fal_ids(), declarations.endpoints
    yield from (f"+ {endpoint_id}" for endpoint_id in sorted(new.keys() - old))
    yield from (f"- {endpoint_id}" for endpoint_id in sorted(old - new.keys()))
    objects = declarations.objects
    for endpoint_id in sorted(new.keys() & old):
        for name, (side, read) in zip(new[endpoint_id], SIDES, strict=True):
            before = set(_paths(read(endpoint_id) or {}, fal_object))
            after = set(_paths(objects[name], objects.__getitem__))
            words = [f"+{path}" for path in sorted(after - before)]
            words += [f"-{path}" for path in sorted(before - after)]
            if words:
                yield f"  {endpoint_id}, {side}: {' '.join(words)}"


def _paths(
    fields: FalFields, object_fields: Callable[[str], FalFields], above: tuple[str, ...] = ()
) -> Iterator[str]:
    """Names of fields, those in an object as ``object.field``."""
    for name, field in fields.items():
        yield name
        for type_name in names_in(field.type):
            if type_name not in above:
                inner = _paths(object_fields(type_name), object_fields, (*above, type_name))
                yield from (f"{name}.{path}" for path in inner)
