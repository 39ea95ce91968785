"""Schemas of apps in OpenAPI's dialect: any JSON Schema 2020-12 becomes a valid component."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator, validate

from serve_app.ingress.http.json_schema import components


def document(schema: dict[str, Any]) -> dict[str, Any]:
    skeleton = {"openapi": "3.0.3", "info": {"title": "x", "version": "1"}, "paths": {}}
    return {**skeleton, "components": {"schemas": components("App", schema)}}


@pytest.mark.parametrize(
    ("field", "converted"),
    [
        (
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            {
                "type": "number",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 1,
                "exclusiveMaximum": True,
            },
        ),
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        (
            {"type": ["string", "integer"]},
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        ),
        ({"const": 3}, {"enum": [3]}),
        ({"type": "null"}, {"enum": [None], "nullable": True}),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 1},
            {"type": "array", "items": {}, "minItems": 1},
        ),
        ({"type": "string", "examples": ["a"]}, {"type": "string"}),
        (True, {}),
        (
            {"type": "object", "additionalProperties": {"type": ["integer", "null"]}},
            {"type": "object", "additionalProperties": {"type": "integer", "nullable": True}},
        ),
    ],
)
def test_keywords_that_openapi_lacks_are_said_otherwise(field: Any, converted: Any) -> None:
    schema = {"type": "object", "properties": {"value": field}}
    spec = document(schema)
    validate(spec, cls=OpenAPIV30SpecValidator)
    assert spec["components"]["schemas"]["App"]["properties"]["value"] == converted


def test_a_field_may_have_the_name_of_a_keyword() -> None:
    names = ("const", "examples", "type", "exclusiveMinimum", "$ref")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    spec = document(schema)
    validate(spec, cls=OpenAPIV30SpecValidator)
    assert set(spec["components"]["schemas"]["App"]["properties"]) == set(names)


def test_definitions_are_named_after_the_app() -> None:
    inner = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Inner"}}}
    schema = {
        "type": "object",
        "properties": {"inner": {"$ref": "#/$defs/Inner", "description": "It."}},
        "$defs": {"Inner": inner},
    }
    spec = document(schema)
    validate(spec, cls=OpenAPIV30SpecValidator)
    assert set(spec["components"]["schemas"]) == {"App", "AppInner"}
