"""Errors in ComfyUI's format: one for the prompt, and those of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import DarkroomError, FieldProblem, InvalidInput
from serve_app.ingress.http.errors import common_headers, http_answer, json_reply
from serve_app.ingress.http.openapi import ErrorFormat

TAG = "comfyui"


class ComfyUiProblem(TypedDict):
    """What is wrong with a prompt, or with a value of a node."""

    type: str
    message: str
    details: str
    extra_info: dict[str, Any]


class ComfyUiNodeProblems(TypedDict):
    """What is wrong with a node."""

    errors: list[ComfyUiProblem]
    dependent_outputs: list[str]
    class_type: str


class ComfyUiError(TypedDict):
    """Body of an error. ``node_errors``: by the id of the node."""

    error: ComfyUiProblem
    node_errors: dict[str, ComfyUiNodeProblems]


ERRORS = ErrorFormat(
    ComfyUiError,
    {
        400: "A value is not valid; `node_errors` names the nodes.",
        404: "Not found, or no endpoint takes any workflow.",
    },
)
AT_SUBMIT = (400, 403, 404, 413, 429, 503, 507)


def error_response(error: DarkroomError) -> Response:
    """Error response. ComfyUI answers every prompt that is not valid with 400."""
    invalid = isinstance(error, InvalidInput)
    body: ComfyUiError = {
        "error": _problem("invalid_prompt" if invalid else error.code, error.message, ""),
        "node_errors": _of_nodes(error.problems) if isinstance(error, InvalidInput) else {},
    }
    headers = common_headers(error)
    status = 400 if invalid else http_answer(error).status
    if status == 401:
        headers["www-authenticate"] = 'Basic realm="Darkroom", charset="UTF-8"'
    return json_reply(body, status, headers)


def exists(path: str) -> Response:
    """Response to a call that would replace a file which must not be replaced."""
    message = f"There is a file {path[:100]} already. Choose another name, or replace it."
    body: ComfyUiError = {"error": _problem("file_exists", message, ""), "node_errors": {}}
    return json_reply(body, 409)


def _problem(type_: str, message: str, details: str, **extra: Any) -> ComfyUiProblem:
    return {"type": type_, "message": message, "details": details, "extra_info": extra}


def _of_nodes(problems: tuple[FieldProblem, ...]) -> dict[str, ComfyUiNodeProblems]:
    """Problems by the node that each is of."""
    nodes: dict[str, ComfyUiNodeProblems] = {}
    for name, where, problem in problems_of_nodes(problems):
        node = nodes.setdefault(name, {"errors": [], "dependent_outputs": [], "class_type": ""})
        node["class_type"] = str((problem.context or {}).get("class_type", ""))
        field = where[1] if where[:1] == ["inputs"] and len(where) > 1 else ""
        extra = {"input_name": field} if field else {}
        node["errors"].append(_problem(problem.type, problem.message, ".".join(where), **extra))
    return nodes


def problems_of_nodes(
    problems: Iterable[FieldProblem],
) -> Iterator[tuple[str, Sequence[str], FieldProblem]]:
    """Problems with their node, and where in it they are. Their location is
    ``body.prompt.NODE.…``."""
    for problem in problems:
        match [str(part) for part in problem.loc]:
            case ["body", "prompt", node, *where]:
                yield node, where, problem
            case _:
                pass
