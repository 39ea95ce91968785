"""The tools that there are, as clients list them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_types import Tool, ToolAnnotations

from serve_app.ingress.mcp.arguments import (
    Arguments,
    DescribeModel,
    Generate,
    ListModels,
    OneRequest,
    Wait,
)

LIST_MODELS, DESCRIBE_MODEL, GENERATE = "list_models", "describe_model", "generate"
WAIT, CANCEL, GET_RESULT = "wait", "cancel", "get_result"

ARGUMENTS: Mapping[str, type[Arguments]] = {
    LIST_MODELS: ListModels,
    DESCRIBE_MODEL: DescribeModel,
    GENERATE: Generate,
    WAIT: Wait,
    CANCEL: OneRequest,
    GET_RESULT: OneRequest,
}

INSTRUCTIONS = (
    "Makes pictures, clips and sounds on this installation's own GPUs. Find a model with "
    "list_models, see its input with describe_model, and call generate. What takes longer than the "
    "call may wait goes on; wait and get_result tell how it ended."
)

_DESCRIPTIONS: Mapping[str, str] = {
    LIST_MODELS: "Lists the generative models that can be called here.",
    DESCRIBE_MODEL: "Tells what a model does, and the JSON schemas of its input and its output.",
    GENERATE: (
        "Runs a model and returns what it made. When the call is cancelled or its connection "
        "ends, so is the request. With wait_s 0 it returns a request_id at once, and then nothing "
        "but `cancel` stops the request."
    ),
    WAIT: "Waits for a request and returns what it made. Cancelling this call leaves it running.",
    CANCEL: "Cancels a request that waits or runs.",
    GET_RESULT: "Tells how a request stands, or returns what it made, without waiting.",
}


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
