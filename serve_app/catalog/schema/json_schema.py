"""Schema of endpoints whose input is described by a JSON Schema of their own, such as apps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.exceptions import ValidationError as SchemaViolation

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import FieldProblem, InvalidInput

INPUT, OUTPUT = "input_schema", "output_schema"
"""Options of an endpoint with its schemas."""

MAX_PROBLEMS = 20

_TYPES = {
    "additionalProperties": "extra_forbidden",
    "anyOf": "value_error",
    "const": "one_of",
    "enum": "one_of",
    "exclusiveMaximum": "less_than",
    "exclusiveMinimum": "greater_than",
    "format": "value_error",
    "maxItems": "sequence_too_long",
    "maxLength": "sequence_too_long",
    "maximum": "less_than_equal",
    "minItems": "sequence_too_short",
    "minLength": "sequence_too_short",
    "minimum": "greater_than_equal",
    "multipleOf": "multiple_of",
    "oneOf": "value_error",
    "pattern": "string_pattern_mismatch",
    "required": "missing",
    "type": "type_error",
}
"""Keyword of JSON Schema → fal's type of error, which is pydantic's."""

_BOUNDS = {
    "maximum": "le",
    "minimum": "ge",
    "exclusiveMaximum": "lt",
    "exclusiveMinimum": "gt",
    "maxLength": "max_length",
    "minLength": "min_length",
    "maxItems": "max_length",
    "minItems": "min_length",
    "pattern": "pattern",
    "enum": "expected",
    "multipleOf": "multiple_of",
}
"""Keyword → name of its bound in an error."""


class JsonSchema:
    """Schema of an endpoint with the options ``input_schema`` and ``output_schema``, with its
    defaults and bounds. ``ValueError`` if they do not fit."""

    makes_drafts = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._schema = _narrowed(_given(endpoint, INPUT), endpoint)
        self._output = _given(endpoint, OUTPUT)
        # References are local: nothing is fetched.
        self._validator = Draft202012Validator(self._schema)
        self._fields = cast("Mapping[str, Any]", self._schema.get("properties", {}))
        self._open = self._schema.get("additionalProperties") not in (None, False)

    def validate(
        self, body: Mapping[str, Any], origin: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        del origin  # it makes no drafts
        refuses = self._schema.get("additionalProperties") is False
        unknown = (
            [] if self._open else sorted(str(name) for name in body if name not in self._fields)
        )
        known = {name: body[name] for name in body if refuses or name not in unknown}
        filled = {
            name: deepcopy(field["default"])
            for name, field in self._fields.items()
            if isinstance(field, Mapping) and "default" in field and name not in known
        }
        checked = {**filled, **known}
        problems = [
            _problem(error)
            for _, error in zip(
                range(MAX_PROBLEMS), self._validator.iter_errors(checked), strict=False
            )
        ]
        if problems:
            first = problems[0]
            field = ".".join(str(part) for part in first.loc[1:])
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InvalidInput(
                (f"{field}: " if field else "") + first.message + more, tuple(problems)
            )
        if not unknown or refuses:
            return checked, ()
        names = ", ".join(unknown)
        return checked, (f"Ignored, because this endpoint has no such field: {names}.",)

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        del input  # known only when the files are there
        return ()

    def json_schema(self) -> dict[str, Any]:
        return deepcopy(self._schema)

    def output_schema(self) -> dict[str, Any]:
        return deepcopy(self._output)


def _given(endpoint: Endpoint, option: str) -> dict[str, Any]:
    schema = endpoint.options.get(option)
    if not isinstance(schema, Mapping):
        raise ValueError(f"the schema `json` needs `options.{option}`, a JSON Schema")  # noqa: TRY004
    found = deepcopy(dict(cast("Mapping[str, Any]", schema)))
    try:
        Draft202012Validator.check_schema(found)
    except SchemaError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        raise ValueError(
            f"`options.{option}` is no JSON Schema: {where}: {error.message}"
        ) from None
    if found.get("type") != "object":
        raise ValueError(f"`options.{option}` must describe an object (`type: object`)")
    for reference in _references(found):
        if not reference.startswith("#/$defs/"):
            raise ValueError(
                f"`options.{option}` refers to {reference}; references must be below `#/$defs/`"
            )
    return found


def _references(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        own = [fields["$ref"]] if isinstance(fields.get("$ref"), str) else []
        return own + [each for inner in fields.values() for each in _references(inner)]
    if isinstance(value, list):
        return [each for inner in cast("list[Any]", value) for each in _references(inner)]
    return []


def _narrowed(schema: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """``schema`` with the endpoint's defaults and bounds."""
    fields = schema.setdefault("properties", {})
    unknown = sorted((endpoint.defaults.keys() | endpoint.bounds.keys()) - fields.keys())
    if unknown:
        raise ValueError(f"the schema has no field {', '.join(unknown)}")
    for name, value in endpoint.defaults.items():
        fields[name] = {**fields[name], "default": value}
    for name, (least, most) in endpoint.bounds.items():
        field = fields[name]
        fields[name] = {
            **field,
            "minimum": max(least, field.get("minimum", least)),
            "maximum": min(most, field.get("maximum", most)),
        }
    return schema


def _problem(error: SchemaViolation) -> FieldProblem:
    keyword = str(error.validator)
    loc: tuple[str | int, ...] = ("body", *error.absolute_path)
    value: Any = error.instance
    message = str(error.message)
    context: dict[str, Any] | None = None
    if keyword == "required":
        required = cast("list[str]", error.validator_value)
        missing = next(each for each in required if each not in cast("Any", error.instance))
        loc, value, message = (*loc, missing), None, "Field required"
    elif keyword in _BOUNDS:
        context = {_BOUNDS[keyword]: error.validator_value}
    if keyword == "type":
        message = f"Input should be of type {error.validator_value}"
    return FieldProblem(loc, message, _TYPES.get(keyword, "value_error"), context, value)
