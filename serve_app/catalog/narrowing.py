"""An input model with the defaults and bounds that one endpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, cast

from annotated_types import Ge, Le
from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

Bounds = Mapping[str, tuple[float, float]]


def narrowed(
    model: type[BaseModel], defaults: Mapping[str, Any], bounds: Bounds
) -> type[BaseModel]:
    """``model`` with other defaults and tighter bounds; ``ValueError`` for a field it lacks."""
    unknown = sorted((defaults.keys() | bounds.keys()) - model.model_fields.keys())
    if unknown:
        raise ValueError(f"the schema has no field {', '.join(unknown)}")
    fields: dict[str, Any] = {}
    for name in sorted(defaults.keys() | bounds.keys()):
        old = model.model_fields[name]
        fields[name] = (_annotation(old, bounds.get(name)), _field(old, name, defaults))
    return create_model(model.__name__, __base__=model, **fields)


def _annotation(field: FieldInfo, bounds: tuple[float, float] | None) -> Any:
    """The type with the constraints it had; of two bounds the tighter one remains."""
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
    """12 rather than 12.0: it is shown to people."""
    return int(bound) if float(bound).is_integer() else bound


def _field(old: FieldInfo, name: str, defaults: Mapping[str, Any]) -> Any:
    given: dict[str, Any] = {"description": old.description}
    if name in defaults:
        given["default"] = defaults[name]
    elif old.default_factory is not None:
        given["default_factory"] = old.default_factory
    elif not old.is_required():
        given["default"] = old.default
    return Field(**given)
