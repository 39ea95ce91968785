"""Schema of endpoints whose input is described by a JSON Schema of their own, such as apps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.exceptions import ValidationError as SchemaViolation

from serve_app.catalog.schema.json_validator import (
    BoundedValidator,
    TooManySteps,
    check_keywords,
    check_size,
)
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import FieldProblem, InvalidInput

INPUT, OUTPUT = "input_schema", "output_schema"
"""Options of an endpoint with its schemas."""

MAX_PROBLEMS = 20


MOST_SHOWN = 300  # characters of a message

_TYPES = {
    "additionalProperties": "extra_forbidden",
    "const": "one_of",
    "enum": "one_of",
    "exclusiveMaximum": "less_than",
    "exclusiveMinimum": "greater_than",
    "maxItems": "sequence_too_long",
    "maxLength": "sequence_too_long",
    "maximum": "less_than_equal",
    "minItems": "sequence_too_short",
    "minLength": "sequence_too_short",
    "minimum": "greater_than_equal",
    "multipleOf": "multiple_of",
    "pattern": "string_pattern_mismatch",
    "required": "missing",
}
"""Keyword of JSON Schema → fal's type of error, which is pydantic's. All others: value_error."""

_BOUNDS = {
    "maximum": ("le", "Input should be less than or equal to {}"),
    "minimum": ("ge", "Input should be greater than or equal to {}"),
    "exclusiveMaximum": ("lt", "Input should be less than {}"),
    "exclusiveMinimum": ("gt", "Input should be greater than {}"),
    "maxLength": ("max_length", "String should have at most {} character{}"),
    "minLength": ("min_length", "String should have at least {} character{}"),
    "maxItems": ("max_length", "List should have at most {} item{} after validation, not {}"),
    "minItems": ("min_length", "List should have at least {} item{} after validation, not {}"),
    "pattern": ("pattern", "String should match pattern '{}'"),
    "multipleOf": ("multiple_of", "Input should be a multiple of {}"),
}
"""Keyword → name of its bound in an error, and the message."""

_JSON_TYPES = {
    "array": ("list_type", "Input should be a valid list"),
    "boolean": ("bool_type", "Input should be a valid boolean"),
    "integer": ("int_type", "Input should be a valid integer"),
    "null": ("none_required", "Input should be None"),
    "number": ("float_type", "Input should be a valid number"),
    "object": ("dict_type", "Input should be a valid dictionary"),
    "string": ("string_type", "Input should be a valid string"),
}
"""Type of JSON Schema → type of the error, and its message."""

_ELSEWHERE = ("$ref", "allOf", "anyOf", "dependentSchemas", "if", "oneOf", "patternProperties")
"""Keywords that may describe fields which ``properties`` does not have."""


class JsonSchema:
    """Schema of an endpoint with the options ``input_schema`` and ``output_schema``, with its
    defaults and bounds. ``ValueError`` if they do not fit."""

    makes_drafts = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._schema = _narrow_schema(_schema_option(endpoint, INPUT), endpoint)
        self._output = _schema_option(endpoint, OUTPUT)
        self._validator = BoundedValidator(self._schema)
        self._fields = cast("Mapping[str, Any]", self._schema["properties"])
        self.fields = frozenset(self._fields)
        closed = self._schema.get("additionalProperties") in (None, False)
        self.is_open = not closed or any(keyword in self._schema for keyword in _ELSEWHERE)
        self._defaults = self._usable_defaults(endpoint)

    def validate(
        self, body: Mapping[str, Any], origin: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        del origin  # it makes no drafts
        refuses = self._schema.get("additionalProperties") is False
        unknown = [] if self.is_open else sorted(name for name in body if name not in self._fields)
        known = {name: body[name] for name in body if refuses or name not in unknown}
        if problems := self._problems(known):
            raise InvalidInput.of_problems(tuple(problems))
        left = {name: default for name, default in self._defaults.items() if name not in known}
        checked = {**deepcopy(left), **known}
        if not unknown:
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

    def _problems(self, body: Mapping[str, Any]) -> list[FieldProblem]:
        try:
            violations = self._validator.violations(body, MAX_PROBLEMS)
            return [_problem(inner) for error in violations for inner in _of_branch(error)]
        except (TooManySteps, RecursionError):
            message = "The input has too many or too deeply nested parts to be checked. Send less"
            raise InvalidInput(
                message + ".", (FieldProblem(("body",), message, "value_error"),)
            ) from None

    def _usable_defaults(self, endpoint: Endpoint) -> dict[str, Any]:
        """Defaults of the fields that are valid. Python accepts others, such as ``x: int = None``;
        those are the app's own to fill in."""
        usable: dict[str, Any] = {}
        for name, field in self._fields.items():
            if not isinstance(field, Mapping) or "default" not in field:
                continue
            default = cast("Mapping[str, Any]", field)["default"]
            if not (wrong := self._validator.violations(default, 1, field)):
                usable[name] = default
            elif name in endpoint.defaults:
                raise ValueError(
                    f"the default of {name} is not valid: {_problem(wrong[0]).message}"
                )
        return usable


def _schema_option(endpoint: Endpoint, option: str) -> dict[str, Any]:
    schema = endpoint.options.get(option)
    if not isinstance(schema, Mapping):
        raise ValueError(f"the schema `json` needs `options.{option}`, a JSON Schema")  # noqa: TRY004
    try:
        check_size(schema)
        document = deepcopy(dict(cast("Mapping[str, Any]", schema)))
        Draft202012Validator.check_schema(document)
        check_keywords(document)
    except SchemaError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        message = error.message[:MOST_SHOWN]
        raise ValueError(f"`options.{option}` is no JSON Schema: {where}: {message}") from None
    except ValueError as error:
        raise ValueError(f"`options.{option}` {error}") from None
    if document.get("type") != "object":
        raise ValueError(f"`options.{option}` must describe an object (`type: object`)")
    return document


def _narrow_schema(schema: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """``schema`` with the endpoint's defaults and bounds."""
    fields = schema.setdefault("properties", {})
    unknown = sorted((endpoint.defaults.keys() | endpoint.bounds.keys()) - fields.keys())
    if unknown:
        raise ValueError(f"the schema has no field {', '.join(unknown)}")
    for name in endpoint.defaults.keys() | endpoint.bounds.keys():
        if not isinstance(fields[name], Mapping):
            raise ValueError(f"the field {name} has no schema that could have a default or bounds")  # noqa: TRY004
    for name, value in endpoint.defaults.items():
        fields[name] = {**fields[name], "default": value}
    for name, (least, most) in endpoint.bounds.items():
        field = fields[name]
        fields[name] = {
            **field,
            "minimum": max(least, field.get("minimum", least)),
            "maximum": min(most, field.get("maximum", most)),
        }
    # A field with a default may be left out.
    if "required" in schema:
        schema["required"] = [
            name
            for name in schema["required"]
            if not isinstance(field := fields.get(name), Mapping) or "default" not in field
        ]
    return schema


# Problems of an input, as pydantic names them.


def _of_branch(error: SchemaViolation) -> list[SchemaViolation]:
    """Violations of the only branch of a union that the value can be meant for, or the violation
    of the union."""
    if error.validator not in ("anyOf", "oneOf") or not error.context:
        return [error]
    branches: dict[Any, list[SchemaViolation]] = {}
    for violation in error.context:
        branches.setdefault(violation.schema_path[0], []).append(violation)
    meant = [branch for branch in branches.values() if not any(map(_is_another, branch))]
    if len(meant) != 1:
        return [error]
    return [inner for cause in meant[0] for inner in _of_branch(cause)]


def _is_another(error: SchemaViolation) -> bool:
    """True if a violation says that the value is meant for another branch of a union: its type, or
    the constant that tells the branches apart, is not this one's."""
    return error.validator == "const" or (error.validator == "type" and not error.relative_path)


def _problem(error: SchemaViolation) -> FieldProblem:
    keyword = str(error.validator)
    constraint: Any = error.validator_value
    loc = ("body", *error.absolute_path)
    type_, message = _TYPES.get(keyword, "value_error"), error.message[:MOST_SHOWN]
    value: Any = error.instance
    context: dict[str, Any] | None = None
    if keyword == "required":
        value = None
    elif keyword == "type":
        message = f"Input should be of type {constraint}"
        type_, message = _JSON_TYPES.get(str(constraint), ("value_error", message))
    elif keyword in ("enum", "const"):
        expected = _alternatives(constraint if keyword == "enum" else [constraint])
        message, context = f"Input should be {expected}"[:MOST_SHOWN], {"expected": expected}
    elif keyword in ("anyOf", "oneOf", "not"):
        message = "Input has none of the forms that are possible here"
    elif keyword in _BOUNDS:
        name, sentence = _BOUNDS[keyword]
        length = len(value) if isinstance(value, list) else 0
        message = sentence.format(constraint, "" if constraint == 1 else "s", length)[:MOST_SHOWN]
        context = {name: constraint}
        if keyword in ("maxItems", "minItems"):
            context |= {"field_type": "List", "actual_length": length}
    return FieldProblem(loc, message, type_, context, value)


def _alternatives(values: Sequence[Any]) -> str:
    """``'a', 'b' or 'c'``."""
    *others, last = map(repr, values)
    return f"{', '.join(others)} or {last}" if others else last
