"""What the tools take. The models are their schemas, and check what is sent."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

USUAL_WAIT_S, MOST_WAIT_S = 50.0, 600.0
"""Many clients give a tool a minute."""

_WAIT = Field(
    default=USUAL_WAIT_S,
    ge=0,
    le=MOST_WAIT_S,
    description=(
        "Seconds to wait for the end. A request that has not ended by then goes on: call `wait`."
    ),
)


class Arguments(BaseModel):
    """A name that is not known is a mistake, and is told."""

    model_config = ConfigDict(extra="forbid")


class ListModels(Arguments):
    query: str = Field(
        default="", description="Only models with these words in id, name, description or category."
    )


class DescribeModel(Arguments):
    model: str = Field(description="A model's id, as `list_models` tells it.")


class Generate(Arguments):
    model: str = Field(description="A model's id, as `list_models` tells it.")
    input: dict[str, Any] = Field(
        description="The model's input, as `describe_model` tells it: most take a `prompt`."
    )
    wait_s: float = _WAIT


class Wait(Arguments):
    request_id: str = Field(description="As `generate` told it.")
    wait_s: float = _WAIT


class OneRequest(Arguments):
    request_id: str = Field(description="As `generate` told it.")
