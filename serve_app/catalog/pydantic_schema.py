"""Schemas that are pydantic models: one for what goes in and one for what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from serve_app.catalog import effects, seeds
from serve_app.catalog.narrowing import narrowed
from serve_app.catalog.problems import invalid_input
from serve_app.catalog.produced import PICTURES, Produced
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import FieldProblem, InvalidInput

REQUIRED = "missing"  # pydantic's word for a field that was not given


@dataclass(frozen=True, slots=True)
class Shape:
    """What the endpoints of one kind take and give."""

    input: type[BaseModel]
    output: type[BaseModel]
    produced: Produced = PICTURES


class PydanticSchema:
    """A shape under one endpoint's defaults and bounds. ``ValueError`` for those it cannot take.

    The bound ``megapixels`` is over ``image_size``, of which it limits the area.
    """

    def __init__(self, shape: Shape, endpoint: Endpoint) -> None:
        bounds = dict(endpoint.bounds)
        self._shape = shape
        self._most_megapixels = bounds.pop("megapixels", (0.0, float("inf")))[1]
        self._model = narrowed(shape.input, endpoint.defaults, bounds)
        self._known = frozenset(self._model.model_fields)
        self._most_outputs = seeds.most_outputs(self._model)
        self._marks = effects.marks(self._model)
        self._item_marks = effects.marks_of_items(self._model)
        self._check_defaults()

    def validate(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        try:
            checked = self._model.model_validate(body).model_dump()
        except ValidationError as error:
            raise invalid_input(error) from None
        checked = seeds.agreed(body, checked, self._most_outputs)
        effects.refuse(self._marks, checked)
        if checked.get("image_size") is not None:
            self._check_megapixels(checked["image_size"])
        return checked, self._warnings(body)

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        return self._shape.produced(input)

    def json_schema(self) -> dict[str, Any]:
        schema = effects.described(self._marks, self._model.model_json_schema())
        for model, marks in self._item_marks.values():
            effects.described(marks, schema["$defs"][model])
        return {**schema, "x-fal-order-properties": list(schema["properties"])}

    def output_schema(self) -> dict[str, Any]:
        schema = self._shape.output.model_json_schema(mode="serialization")
        return {**schema, "x-fal-order-properties": list(schema["properties"])}

    def _check_defaults(self) -> None:
        try:
            self._model.model_validate({})
        except ValidationError as error:
            wrong = [one for one in error.errors() if one["type"] != REQUIRED]
            if wrong:
                field = ".".join(str(part) for part in wrong[0]["loc"])
                raise ValueError(f"a default is not allowed: {field}: {wrong[0]['msg']}") from None

    def _check_megapixels(self, size: Mapping[str, int]) -> None:
        megapixels = size["width"] * size["height"] / 1e6
        if megapixels > self._most_megapixels:
            message = (
                f"{size['width']}×{size['height']} is {megapixels:.1f} megapixels; this "
                f"installation allows {self._most_megapixels:g} here (`bounds` in its catalogue)"
            )
            problem = FieldProblem(
                loc=("body", "image_size"),
                message=message,
                type="image_too_large",
                context={"le": self._most_megapixels},
                value=dict(size),
            )
            raise InvalidInput(f"image_size: {message}", (problem,))

    def _warnings(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        found: list[str] = []
        unknown = sorted(str(name) for name in body if name not in self._known)
        if unknown:
            found.append(f"Ignored, because this endpoint has no such field: {', '.join(unknown)}.")
        found += effects.warnings(self._marks, body)
        for name, (_, marks) in self._item_marks.items():
            for number, item in enumerate(body.get(name) or ()):
                found += effects.warnings(marks, item, f"{name}.{number}.")
        return tuple(found)
