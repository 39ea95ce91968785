"""Fields of an input that become arguments by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.call_mapping import CallMapping
from deployments.picture_input import strength_of
from serve_app.domain.errors import InvalidInput


def need(input: Mapping[str, Any], *names: str) -> None:
    """The schema ``open`` checks no fields."""
    for name in names:
        if input.get(name) is None:
            raise InvalidInput.of_field(name, "Field required", "missing")


def mapped(mapping: CallMapping, input: Mapping[str, Any]) -> dict[str, Any]:
    """What comes from fields by their names. Those without a value are the pipeline's to choose."""
    if "strength" in mapping.arguments and input.get("strength") is not None:
        strength_of(input, int(input["num_inference_steps"]))
    return {
        argument: input[name]
        for name, argument in mapping.arguments.items()
        if input.get(name) is not None and not (input[name] == "" and name in mapping.unless_empty)
    }
