"""The schema that takes any JSON object: for families of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import FieldProblem, InvalidInput

MAX_ARTIFACTS = 64


class OpenInput:
    """Any object passes, with the endpoint's defaults under it.

    With ``artifacts_field`` in the endpoint's options, that field of the input (a whole number)
    says how many files the request may produce; their type is the option ``media_type``, plain
    bytes if unset.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._defaults = dict(endpoint.defaults)
        self._field: str | None = endpoint.options.get("artifacts_field")
        self._media_type: str = endpoint.options.get("media_type", "application/octet-stream")
        if endpoint.bounds:
            raise ValueError("the schema `open` knows no fields, so it can have no bounds")

    def validate(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        filled = {**self._defaults, **body}
        if self._field is not None:
            self._check_count(self._field, filled.get(self._field, 0))
        return filled, ()

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        count = input.get(self._field, 0) if self._field is not None else 0
        return (self._media_type,) * count

    def json_schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": True}

    def output_schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": True}

    def _check_count(self, name: str, count: object) -> None:
        if isinstance(count, bool) or not isinstance(count, int):
            message, type_, context = "Input should be a whole number", "int_type", None
        elif count < 0:
            message, type_, context = "Input should be 0 or more", "greater_than_equal", {"ge": 0}
        elif count > MAX_ARTIFACTS:
            message = f"Input should be {MAX_ARTIFACTS} or less"
            type_, context = "less_than_equal", {"le": MAX_ARTIFACTS}
        else:
            return
        problem = FieldProblem(("body", name), message, type_, context, count)
        raise InvalidInput(f"{name}: {message}", (problem,))
