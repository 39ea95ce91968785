"""JSON Schema 2020-12, as pydantic writes it, in the dialect of OpenAPI 3.0.

3.0 is what fal publishes and what most generators of clients read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

OLD_REFERENCE, NEW_REFERENCE = "#/$defs/", "#/components/schemas/"
NULL = {"type": "null"}


def components(name: str, schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``schema`` under ``name``, and its definitions under ``{name}{definition}``, so that those of
    several schemas go into one document."""
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    plain = {key: value for key, value in schema.items() if key != "$defs"}
    found = {name: _converted(plain, name)}
    for each, definition in definitions.items():
        found[name + each] = _converted(definition, name)
    return found


def _converted(value: Any, prefix: str) -> Any:
    if isinstance(value, list):
        return [_converted(each, prefix) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    schema = cast("dict[str, Any]", value)
    if isinstance(schema.get("$ref"), str):
        return _reference(schema, prefix)
    converted = {key: _converted(inner, prefix) for key, inner in schema.items()}
    if NULL in schema.get("anyOf", ()):
        return _nullable(converted)
    if "const" in converted:
        converted["enum"] = [converted.pop("const")]
    return converted


def _reference(schema: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What stands beside a reference counts for nothing in 3.0, so it goes round it."""
    reference = {"$ref": NEW_REFERENCE + prefix + schema["$ref"].removeprefix(OLD_REFERENCE)}
    beside = {key: _converted(inner, prefix) for key, inner in schema.items() if key != "$ref"}
    return {**beside, "allOf": [reference]} if beside else reference


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    others = [each for each in schema.pop("anyOf") if each != NULL]
    if schema.get("default", 0) is None:
        del schema["default"]  # leaving the field out says the same
    if len(others) == 1 and "$ref" not in others[0]:
        return {**others[0], **schema, "nullable": True}
    return {**schema, "anyOf": others, "nullable": True}
