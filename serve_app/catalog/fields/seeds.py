"""Seeds lists: several outputs from one request, a feature that fal's inputs lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Le
from pydantic import BaseModel, Field

from serve_app.catalog.fields.fields import MAX_SEED, MIN_SEED
from serve_app.domain.errors import FieldProblem, InvalidInput

MAX_OUTPUTS = 4
"""Limit for inputs without a count of their own."""

COUNT, SEED, SEEDS = "num_images", "seed", "seeds"

Seeds = Annotated[
    list[Annotated[int, Field(ge=MIN_SEED, le=MAX_SEED)]] | None,
    Field(
        min_length=1,
        description="One output for each seed, the same as a request with this `seed` gives.",
    ),
]


def most_outputs(model: type[BaseModel]) -> int:
    """Maximum number of outputs that an input of ``model`` may ask for."""
    count = model.model_fields.get(COUNT)
    bounds = [bound.le for bound in count.metadata if isinstance(bound, Le)] if count else []
    return min([int(str(each)) for each in bounds], default=MAX_OUTPUTS)


def apply_seeds(body: Mapping[str, Any], checked: dict[str, Any], most: int) -> dict[str, Any]:
    """The valid input ``checked``, with as many outputs as it has seeds. ``InvalidInput`` if
    ``body``, from which it was validated, contradicts that."""
    seeds = checked.get(SEEDS)
    if seeds is None:
        checked.pop(SEEDS, None)  # rarely set, and inputs are shown to users
        return checked
    if body.get(SEED) is not None:
        raise _disagreement(SEED, "Input should be left out if `seeds` is set", body[SEED])
    if len(seeds) > most:
        raise _disagreement(SEEDS, f"Input should have at most {most} seeds here", seeds)
    requested = body.get(COUNT)
    if COUNT in checked and requested is not None and checked[COUNT] != len(seeds):
        message = f"Input has {len(seeds)} seeds, but `{COUNT}` is {checked[COUNT]}"
        raise _disagreement(SEEDS, message, seeds)
    return checked | ({COUNT: len(seeds)} if COUNT in checked else {})


def _disagreement(field: str, message: str, value: Any) -> InvalidInput:
    problem = FieldProblem(("body", field), message, "value_error", None, value)
    return InvalidInput(f"{field}: {message}", (problem,))
