"""Tools, as clients list them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from mcp_types import Tool, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.domain.endpoint import MAX_SEARCH
from serve_app.domain.errors import FieldProblem, InvalidInput

# Arguments of the tools. The models are the tools' schemas, and validate the calls.

USUAL_WAIT_S, MAX_WAIT_S = 50.0, 600.0
"""Default and longest wait in seconds. Many clients limit a tool call to one minute."""

_WAIT = Field(
    default=USUAL_WAIT_S,
    ge=0,
    le=MAX_WAIT_S,
    description=(
        "Seconds to wait for the end. A request that has not ended by then continues: call `wait`."
    ),
)


class Arguments(BaseModel):
    """Base of the arguments. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class ListModels(Arguments):
    query: str = Field(
        default="",
        max_length=MAX_SEARCH,
        description="Only models with these words in id, name, description or category.",
    )


class DescribeModel(Arguments):
    model: str = Field(description="A model's id, as returned by `list_models`.")


class Generate(Arguments):
    model: str = Field(description="A model's id, as returned by `list_models`.")
    input: dict[str, Any] = Field(
        description="The model's input: `describe_model` has its schema. Most take a `prompt`."
    )
    wait_s: float = _WAIT


class Wait(Arguments):
    request_id: str = Field(description="The id that `generate` returned.")
    wait_s: float = _WAIT


class RequestArguments(Arguments):
    request_id: str = Field(description="The id that `generate` returned.")


LIST_MODELS, DESCRIBE_MODEL, GENERATE = "list_models", "describe_model", "generate"
WAIT, CANCEL, GET_RESULT = "wait", "cancel", "get_result"

ARGUMENTS: Mapping[str, type[Arguments]] = {
    LIST_MODELS: ListModels,
    DESCRIBE_MODEL: DescribeModel,
    GENERATE: Generate,
    WAIT: Wait,
    CANCEL: RequestArguments,
    GET_RESULT: RequestArguments,
}

INSTRUCTIONS = (
    "Generates images, video and audio on this installation's own GPUs. Find a model with "
    "list_models, read its input schema with describe_model, and call generate. A request that "
    "takes longer than the call may wait continues; wait and get_result return its outcome."
)

_DESCRIPTIONS: Mapping[str, str] = {
    LIST_MODELS: "Lists the generative models that can be called here.",
    DESCRIBE_MODEL: "Describes a model, and returns the JSON schemas of its input and its output.",
    GENERATE: (
        "Runs a model and returns its output. If the call is cancelled or its connection ends, the "
        "request is cancelled too. With wait_s 0 it returns a request_id at once, and then only "
        "`cancel` stops the request."
    ),
    WAIT: "Waits for a request and returns its output. Cancelling this call leaves it running.",
    CANCEL: "Cancels a request that is queued or running.",
    GET_RESULT: "Returns the state of a request, or its output if it has ended, without waiting.",
}


MAX_ARGUMENTS = 100
"""Far more than a tool takes: each wrong one costs time, and a body has room for a million."""
MAX_MISTAKES = 10  # in one sentence
MAX_NAME = 64
"""Characters of a name that are looked at. The comparison with the known names takes time."""


def checked_count(tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments. ``InvalidInput``: they are more than ``MAX_ARGUMENTS``."""
    if len(arguments) > MAX_ARGUMENTS:
        takes = ", ".join(f"`{name}`" for name in ARGUMENTS[tool].model_fields)
        raise InvalidInput(f"{tool} was called with {len(arguments)} arguments. It takes {takes}.")
    return arguments


def argument_error(tool: str, error: ValidationError) -> InvalidInput:
    """Sentence for an assistant about wrong arguments: the mistakes, and what the tool takes."""
    fields = ARGUMENTS[tool].model_fields
    wrong: list[str] = []
    mistakes = error.errors()[:MAX_MISTAKES]
    for mistake in mistakes:
        name = ".".join(str(part) for part in mistake["loc"])[:MAX_NAME]
        if mistake["type"] == "missing":
            wrong.append(f"`{name}` is missing")
        elif mistake["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f" (did you mean `{near[0]}`?)" if near else ""
            wrong.append(f"there is no `{name}`{hint}")
        else:
            wrong.append(f"`{name}`: {mistake['msg']}")
    takes = ", ".join(
        f"`{name}`{' (required)' if field.is_required() else ''}" for name, field in fields.items()
    )
    return InvalidInput(
        f"Wrong arguments of {tool}: {'; '.join(wrong)}. It takes {takes}.",
        tuple(
            FieldProblem(("body", *detail["loc"]), detail["msg"], detail["type"])
            for detail in mistakes
        ),
    )


def tools() -> list[Tool]:
    return [
        Tool(
            name=name,
            description=_DESCRIPTIONS[name],
            input_schema=_schema(arguments),
            annotations=ToolAnnotations(
                read_only_hint=name not in (GENERATE, CANCEL),
                destructive_hint=name == CANCEL,
                idempotent_hint=name != GENERATE,
                open_world_hint=False,
            ),
        )
        for name, arguments in ARGUMENTS.items()
    ]


def _schema(arguments: type[Arguments]) -> dict[str, Any]:
    return {**arguments.model_json_schema(), "title": arguments.__name__}
