"""Schemas built from pydantic models: one for the input and one for the output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from types import MappingProxyType
from typing import Annotated, Any, cast

from annotated_types import Ge, Le
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from serve_app.catalog.fields import drafts, field_notes
from serve_app.catalog.fields.fields import SEEDS, apply_seeds, most_outputs
from serve_app.catalog.fields.outputs import IMAGES, Produced
from serve_app.domain.endpoint import ACCELERATION, Endpoint, described_levels
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.image_size import MAX_MEGAPIXELS

# Input models narrowed to the defaults and bounds of one endpoint.

Bounds = Mapping[str, tuple[float, float]]


def narrow_model(
    model: type[BaseModel],
    defaults: Mapping[str, Any],
    bounds: Bounds,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> type[BaseModel]:
    """``model`` with other defaults and tighter bounds, and ``more`` fields.

    The same arguments give the same class: to make one takes 5 ms, and a catalogue is read again at
    each change. ``ValueError`` for a field it lacks.
    """
    text = repr((sorted(defaults.items()), sorted(bounds.items()), sorted(more.items())))
    return _narrow(_Narrowing(model, text, defaults, bounds, more))


@dataclass(frozen=True, slots=True)
class _Narrowing:
    """Arguments of ``narrow_model``, and a text that tells them apart."""

    model: type[BaseModel]
    text: str
    defaults: Mapping[str, Any] = field(compare=False)
    bounds: Bounds = field(compare=False)
    more: Mapping[str, Any] = field(compare=False)


@lru_cache(maxsize=1000)
def _narrow(narrowing: _Narrowing) -> type[BaseModel]:
    model, defaults, bounds = narrowing.model, narrowing.defaults, narrowing.bounds
    unknown = sorted((defaults.keys() | bounds.keys()) - model.model_fields.keys())
    if unknown:
        raise ValueError(f"the schema has no field {', '.join(unknown)}")
    fields: dict[str, Any] = {}
    for name in sorted(defaults.keys() | bounds.keys()):
        old = model.model_fields[name]
        fields[name] = (_annotation(old, bounds.get(name)), _field(old, name, defaults))
    return create_model(model.__name__, __base__=model, **fields, **narrowing.more)


def _annotation(field: FieldInfo, bounds: tuple[float, float] | None) -> Any:
    """Type with its constraints. Of two bounds, the tighter one is kept."""
    least, most = bounds or (-inf, inf)
    kept: list[Any] = []
    for constraint in field.metadata:
        if bounds and isinstance(constraint, Ge):
            least = max(least, cast("float", constraint.ge))
        elif bounds and isinstance(constraint, Le):
            most = min(most, cast("float", constraint.le))
        else:
            kept.append(constraint)
    if bounds:
        kept += [Ge(_plain(least)), Le(_plain(most))]
    annotation: Any = field.annotation
    for constraint in kept:
        annotation = Annotated[annotation, constraint]
    return annotation


def _plain(bound: float) -> float:
    """12 rather than 12.0, because users see it."""
    return int(bound) if float(bound).is_integer() else bound


def _field(old: FieldInfo, name: str, defaults: Mapping[str, Any]) -> Any:
    arguments: dict[str, Any] = {"description": old.description}
    if name in defaults:
        arguments["default"] = defaults[name]
    elif old.default_factory is not None:
        arguments["default_factory"] = old.default_factory
    elif not old.is_required():
        arguments["default"] = old.default
    return Field(**arguments)


# Conversion of pydantic's validation errors to fal's error types.

_FALS = {
    "literal_error": "one_of",
    "enum": "one_of",
    "too_short": "sequence_too_short",
    "too_long": "sequence_too_long",
    "string_too_short": "sequence_too_short",
    "string_too_long": "sequence_too_long",
}
"""pydantic error type → fal's name for it, if they differ."""


WITHIN = "within"
"""Key of an error's context: the field, inside the object with the error, that is wrong."""
MAX_PROBLEMS = 100
"""Problems that an answer names. A long list of wrong items would have an answer that is longer."""


def invalid_input(error: ValidationError, *, hide_input: bool = False) -> InvalidInput:
    """Convert to an ``InvalidInput`` with the first ``MAX_PROBLEMS`` problems. Its message names
    the first field. ``hide_input``: the values are secret."""
    details = error.errors(include_url=False)
    problems = tuple(_problem(detail) for detail in details[:MAX_PROBLEMS])
    if hide_input:
        problems = tuple(replace(problem, value=None) for problem in problems)
    return InvalidInput.of_problems(problems, len(details))


def _problem(detail: ErrorDetails) -> FieldProblem:
    type_, context = detail["type"], dict(detail.get("ctx") or {})
    type_ = _FALS.get(type_, type_)
    # A raised ValueError object is useless to the client, and its text is in the message.
    context.pop("error", None)
    for only_in_message in ("names", "more", "why"):
        context.pop(only_in_message, None)
    within = [context.pop(WITHIN)] if WITHIN in context else []
    value = _input_value(detail)
    return FieldProblem(
        loc=("body", *detail["loc"], *within),
        message=detail["msg"],
        type=type_,
        context=context or None,
        value=value[within[0]] if within and value is not None else value,
    )


def _input_value(detail: ErrorDetails) -> Any:
    # For a missing field, pydantic's ``input`` is the whole object around it.
    return None if detail["type"] == "missing" else detail["input"]


REQUIRED = "missing"  # pydantic's error type for a missing field


@dataclass(frozen=True, slots=True)
class Shape:
    """Input model, output model and files of one kind of endpoint."""

    input: type[BaseModel]
    output: type[BaseModel]
    produced: Produced = IMAGES
    drafts: bool = True  # its pipelines can make them


class PydanticSchema:
    """Shape with one endpoint's defaults and bounds. ``ValueError`` if they do not fit.

    The bound ``megapixels`` limits the area of ``image_size``, by default to ``MAX_MEGAPIXELS``.
    """

    def __init__(self, shape: Shape, endpoint: Endpoint) -> None:
        bounds = dict(endpoint.bounds)
        self._shape = shape
        self._most_megapixels = bounds.pop("megapixels", (0.0, MAX_MEGAPIXELS))[1]
        self.makes_drafts = shape.drafts and drafts.makes_drafts(endpoint)
        more = drafts.INPUT_FIELDS if self.makes_drafts else {}
        self._model = narrow_model(shape.input, endpoint.defaults, bounds, more)
        self.fields = frozenset(self._model.model_fields)
        self.is_open = False
        self._most_outputs = most_outputs(self._model)
        self._marks = field_notes.marks(self._model)
        if levels := described_levels(endpoint):
            self._marks = {name: mark for name, mark in self._marks.items() if name != ACCELERATION}
        self._levels = levels
        self._item_marks = field_notes.marks_of_items(self._model)
        self._json_schema: str | None = None
        self._check_defaults()

    def validate(
        self, body: Mapping[str, Any], origin: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        try:
            checked = self._model.model_validate({**(origin or {}), **body}).model_dump()
        except ValidationError as error:
            raise invalid_input(error) from None
        if self.makes_drafts:
            checked = drafts.apply_drafts(body, checked, origin)
        else:
            drafts.refuse_drafts(body)
        if drafts.DRAFT not in checked:
            checked = apply_seeds(body, checked, self._most_outputs)
        field_notes.refuse(self._marks, checked)
        for name, (_, marks) in self._item_marks.items():
            for number, item in enumerate(checked.get(name) or ()):
                field_notes.refuse(marks, item, (name, number))
        if isinstance(checked.get("image_size"), Mapping):  # the replica knows the size of `auto`
            self._check_megapixels(checked["image_size"])
        return checked, self._warnings(body)

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        if drafts.DRAFT in input:
            return self._types_of_drafts(input)
        return self._shape.produced(input)

    def json_schema(self) -> dict[str, Any]:
        if self._json_schema is None:
            self._json_schema = json.dumps(self._describe_input())
        return json.loads(self._json_schema)  # its own copy

    def _describe_input(self) -> dict[str, Any]:
        schema = field_notes.add_marks(self._marks, self._model.model_json_schema())
        if self._levels and ACCELERATION in schema["properties"]:
            field = schema["properties"][ACCELERATION]
            field["description"] = f"{field.get('description', '')} {self._levels}".strip()
        for model, marks in self._item_marks.values():
            field_notes.add_marks(marks, schema["$defs"][model])
        return {**schema, "x-fal-order-properties": list(schema["properties"])}

    def output_schema(self) -> dict[str, Any]:
        schema = self._shape.output.model_json_schema(mode="serialization")
        return {**schema, "x-fal-order-properties": list(schema["properties"])}

    def _types_of_drafts(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        one_draft = self._shape.produced({**input, SEEDS: None})
        return (*one_draft, DRAFT_TYPE) * input[drafts.DRAFT]["count"]

    def _check_defaults(self) -> None:
        try:
            self._model.model_validate({})
        except ValidationError as error:
            wrong = [detail for detail in error.errors() if detail["type"] != REQUIRED]
            if wrong:
                field = ".".join(str(part) for part in wrong[0]["loc"])
                raise ValueError(f"a default is invalid: {field}: {wrong[0]['msg']}") from None

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
        warnings: list[str] = []
        unknown = sorted(name for name in body if name not in self.fields)
        if unknown:
            warnings.append(
                f"Ignored, because this endpoint has no such field: {', '.join(unknown)}."
            )
        warnings += field_notes.warnings(self._marks, body)
        for name, (_, marks) in self._item_marks.items():
            for number, item in enumerate(body.get(name) or ()):
                warnings += field_notes.warnings(marks, item, f"{name}.{number}.")
        return tuple(warnings)
