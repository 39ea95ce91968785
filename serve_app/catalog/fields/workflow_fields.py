"""JSON Schemas of a workflow's input and output, from fields as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

TYPES: Mapping[str, Mapping[str, Any]] = {
    "string": {"type": "string"},
    "text": {"type": "string"},
    "number": {"type": "number"},
    "float": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "object": {"type": "object"},
    "array": {"type": "array"},
    "null": {"type": "null"},
    "image": {"type": "string", "format": "uri"},
    "video": {"type": "string", "format": "uri"},
    "audio": {"type": "string", "format": "uri"},
    "file": {"type": "string", "format": "uri"},
}
"""Types of fields: those of JSON Schema, and others that editors of workflows write."""

_OF_EDITORS = frozenset({"name", "label", "required", "modelId", "nodeId", "order"})
"""Keys of a field that say nothing about its values, or are said otherwise in JSON Schema."""


def object_schema(fields: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    """Schema of an object with these fields. With ``required``, those without a default are, unless
    they say otherwise. ``ValueError``: the name of a field, and what is wrong with it.

    A field is a JSON Schema, or has ``name``, ``label``, ``type`` and ``required``.
    """
    properties: dict[str, Any] = {}
    needed: list[str] = []
    for name, value in fields.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: should be an object that describes the field")  # noqa: TRY004
        field = cast("Mapping[str, Any]", value)
        properties[name] = _property(name, field)
        if required and "default" not in field and field.get("required") is not False:
            needed.append(name)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | ({"required": needed} if needed else {})


def _property(name: str, declaration: Mapping[str, Any]) -> dict[str, Any]:
    schema = {key: value for key, value in declaration.items() if key not in _OF_EDITORS}
    if isinstance(declaration.get("required"), list):
        schema["required"] = declaration["required"]  # of an object's own fields
    if isinstance(declaration.get("label"), str) and declaration["label"]:
        schema.setdefault("title", declaration["label"])
    kind = schema.get("type")
    if isinstance(kind, str):
        if kind not in TYPES:
            raise ValueError(f"{name}: the type `{kind[:64]}` is none of {', '.join(TYPES)}")
        schema |= {key: value for key, value in TYPES[kind].items() if key not in schema}
        schema["type"] = TYPES[kind]["type"]
    return schema


def schema_by_values(values: Mapping[str, Any], referred: Iterable[str]) -> dict[str, Any]:
    """Schema of an input that nothing describes: its fields are those that are referred to, with
    the types of ``values``, which are their defaults. An empty text is no default."""
    properties: dict[str, Any] = {}
    for name in sorted({*values, *referred}):
        value = values.get(name)
        kind = _type_of(value)
        properties[name] = {"type": kind} if kind else {}
        if value not in (None, ""):
            properties[name]["default"] = value
    needed = [name for name in properties if values.get(name) in (None, "")]
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | ({"required": needed} if needed else {})


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "")
