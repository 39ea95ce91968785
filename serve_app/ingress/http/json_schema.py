"""JSON schemas in the dialect of OpenAPI 3.0, from Python types and from pydantic's JSON schemas.

Pydantic writes JSON Schema 2020-12. OpenAPI 3.0 is what fal publishes, and what most generators of
clients read.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

Json = dict[str, Any]

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""Date and time in ISO 8601, as text."""

Url = Annotated[str, WithJsonSchema({"type": "string", "format": "uri"})]
Binary = Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]

OLD_REFERENCE, NEW_REFERENCE = "#/$defs/", "#/components/schemas/"
NULL = {"type": "null"}

Mode = Literal["validation", "serialization"]


def one_of(*values: str) -> Any:
    """Type of a text that is one of ``values``, for values that are computed."""
    return Annotated[str, WithJsonSchema({"type": "string", "enum": list(values)})]


def reference(name: str) -> Json:
    return {"$ref": NEW_REFERENCE + name}


class _Untitled(GenerateJsonSchema):
    """Leaves out titles that only repeat the names of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 pydantic's own
        return False


@functools.cache
def schema_of(type_: Any, mode: Mode) -> tuple[Json, Mapping[str, Json]]:
    """Schema of a type, and the components that it refers to, by name.

    It takes milliseconds for each type, once for a process. ``mode``: "validation" for what clients
    send, "serialization" for responses.
    """
    schemas, definitions = TypeAdapter.json_schemas(
        [(0, mode, TypeAdapter(type_))], schema_generator=_Untitled
    )
    components = {
        name: _convert_schema(_without_title(definition), "")
        for name, definition in definitions.get("$defs", {}).items()
    }
    return _convert_schema(schemas[0, mode], ""), components


def _without_title(schema: Mapping[str, Any]) -> Json:
    return {key: value for key, value in schema.items() if key != "title"}


def components(name: str, schema: Mapping[str, Any]) -> dict[str, Json]:
    """``schema`` under ``name``, and its definitions under ``{name}{definition}``, so that those of
    several schemas go into one document."""
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    plain = {key: value for key, value in schema.items() if key != "$defs"}
    schemas = {name: _convert_schema(plain, name)}
    for own_name, definition in definitions.items():
        schemas[name + own_name] = _convert_schema(definition, name)
    return schemas


_OF_NAMES = frozenset({"properties"})
_OF_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf"})
_OF_A_SCHEMA = frozenset({"additionalProperties", "items", "not"})

_NOT_IN_OPENAPI = frozenset(
    {
        "$anchor", "$comment", "$defs", "$id", "$schema", "contains", "contentEncoding",
        "contentSchema", "dependentRequired", "dependentSchemas", "else", "examples", "if",
        "maxContains", "minContains", "patternProperties", "prefixItems", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""Keywords of JSON Schema 2020-12 that OpenAPI 3.0 does not have. Inputs are checked by them."""


def _convert_schema(value: Any, prefix: str) -> Any:
    """A schema in OpenAPI's dialect. ``value`` may be any schema that an app declares."""
    if not isinstance(value, dict):
        return {} if value is True else value
    schema = cast("Json", value)
    if isinstance(schema.get("$ref"), str):
        return _reference(schema, prefix)
    converted = {
        key: _inner(key, inner, prefix)
        for key, inner in schema.items()
        if key not in _NOT_IN_OPENAPI
    }
    if "prefixItems" in schema:
        converted["items"] = {}
    if isinstance(schema.get("type"), list):
        converted = _of_types(converted)
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        number = schema.get(bound)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            converted |= {limit: number, bound: True}
    if "const" in converted:
        converted["enum"] = [converted.pop("const")]
    if converted.get("type") == "null":
        return {"enum": [None], "nullable": True}
    return _nullable(converted) if NULL in schema.get("anyOf", ()) else converted


def _inner(key: str, inner: Any, prefix: str) -> Any:
    if key in _OF_NAMES and isinstance(inner, dict):
        fields = cast("Json", inner)
        return {name: _convert_schema(field, prefix) for name, field in fields.items()}
    if key in _OF_SCHEMAS and isinstance(inner, list):
        each_ = cast("list[Any]", inner)
        return [item if item == NULL else _convert_schema(item, prefix) for item in each_]
    if key in _OF_A_SCHEMA and not isinstance(inner, bool):
        return _convert_schema(inner, prefix)
    return inner


def _of_types(schema: Json) -> Json:
    """Schema with several types: OpenAPI 3.0 has one, or none."""
    types = [type_name for type_name in schema["type"] if type_name != "null"]
    rest = {key: value for key, value in schema.items() if key != "type"}
    nullable = {"nullable": True} if len(types) < len(schema["type"]) else {}
    if len(types) == 1:
        return {**rest, "type": types[0], **nullable}
    return {**rest, "anyOf": [{"type": type_name} for type_name in types], **nullable}


def _reference(schema: Json, prefix: str) -> Json:
    """OpenAPI 3.0 ignores what stands beside a reference, so the reference goes into ``allOf``."""
    reference = {"$ref": NEW_REFERENCE + prefix + schema["$ref"].removeprefix(OLD_REFERENCE)}
    beside = {key: _convert_schema(inner, prefix) for key, inner in schema.items() if key != "$ref"}
    return {**beside, "allOf": [reference]} if beside else reference


def _nullable(schema: Json) -> Json:
    others = [branch for branch in schema.pop("anyOf") if branch != NULL]
    if schema.get("default", 0) is None:
        del schema["default"]  # leaving the field out says the same
    if len(others) == 1 and "$ref" not in others[0]:
        return {**others[0], **schema, "nullable": True}
    return {**schema, "anyOf": others, "nullable": True}
