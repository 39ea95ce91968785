"""Errors in the format of Comfy API v2: one code, and what is wrong with each node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired

from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import BudgetExhausted, DarkroomError, FieldProblem, InvalidInput
from serve_app.ingress.http.errors import headers_for, http_answer, json_reply
from serve_app.ingress.http.openapi import ErrorFormat

EDITOR_FORMAT, MISSING_ASSET, KEY_REUSE = (
    "workflow_format_ui",
    "missing_asset",
    "idempotency_key_reuse",
)
"""Types of problems that are codes of this protocol."""

CODES: Mapping[int, str] = {
    401: "unauthorized",
    402: "insufficient_credits",
    403: "forbidden",
    404: "not_found",
    410: "not_found",
    422: "invalid_workflow",
    429: "queue_full",
}


class ComfyApiProblem(TypedDict):
    """``details``: ``node_errors``, by the id of the node."""

    code: str
    message: str
    details: NotRequired[dict[str, Any]]


class ComfyApiError(TypedDict):
    """Body of an error."""

    error: ComfyApiProblem


ERRORS = ErrorFormat(
    {
        401: "The key is missing or not valid.",
        402: "The budget of the tenant or key is spent.",
        403: "The key does not allow this call.",
        404: "Not found, or no endpoint takes any workflow.",
        409: "A batch still reads the file.",
        410: "Deleted.",
        413: "Too large.",
        422: "The workflow is not valid, or an asset in it is not there.",
        429: "Too many requests wait, or calls are open; `Retry-After` says when to try again.",
        503: "A service that Darkroom depends on does not answer.",
        507: "Not enough disk space.",
    },
    ComfyApiError,
)


def error_response(error: DarkroomError) -> Response:
    """Error response. The protocol's clients read the code."""
    status = 402 if isinstance(error, BudgetExhausted) else http_answer(error).status
    problems = error.problems if isinstance(error, InvalidInput) else ()
    own = next((it.type for it in problems if it.type in (EDITOR_FORMAT, MISSING_ASSET)), None)
    if any(it.loc == ("header", "Idempotency-Key") for it in problems):
        own = KEY_REUSE
    problem: ComfyApiProblem = {
        "code": own or CODES.get(status, error.code),
        "message": error.message,
    }
    if nodes := _of_nodes(problems):
        problem["details"] = {"node_errors": nodes}
    body: ComfyApiError = {"error": problem}
    headers = {
        name: value for name, value in headers_for(error).items() if not name.startswith("x-fal-")
    }
    return json_reply(body, status, headers)


def _of_nodes(problems: tuple[FieldProblem, ...]) -> dict[str, list[dict[str, str]]]:
    """Problems by the node that each is of. The location of one is ``body.prompt.NODE.…``."""
    nodes: dict[str, list[dict[str, str]]] = {}
    for problem in problems:
        where = [str(part) for part in problem.loc]
        if where[:2] == ["body", "prompt"] and len(where) > 2:
            fault = {"field": where[-1] if len(where) > 3 else "", "reason": problem.message}
            nodes.setdefault(where[2], []).append(fault)
    return nodes
