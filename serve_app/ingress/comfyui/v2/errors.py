"""Errors in the format of Comfy API v2: one code, and what is wrong with each node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired

from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import BudgetExhausted, DarkroomError, FieldProblem, InvalidInput
from serve_app.ingress.comfyui.errors import problems_of_nodes
from serve_app.ingress.http.errors import common_headers, http_answer, json_reply
from serve_app.ingress.http.openapi import ErrorFormat

EDITOR_FORMAT, MISSING_ASSET = "workflow_format_ui", "missing_asset"
OWN_CODES = (EDITOR_FORMAT, MISSING_ASSET, "idempotency_key_reuse")
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
    ComfyApiError,
    {
        402: "The budget of the tenant or key is spent.",
        404: "Not found, or no endpoint takes any workflow.",
        409: "A batch still reads the file.",
        422: "The workflow is not valid, or an asset in it is not there.",
    },
)


def error_response(error: DarkroomError) -> Response:
    """Error response. The protocol's clients read the code."""
    status = 402 if isinstance(error, BudgetExhausted) else http_answer(error).status
    problems = error.problems if isinstance(error, InvalidInput) else ()
    own = next((problem.type for problem in problems if problem.type in OWN_CODES), None)
    problem: ComfyApiProblem = {
        "code": own or CODES.get(status, error.code),
        "message": error.message,
    }
    if nodes := _of_nodes(problems):
        problem["details"] = {"node_errors": nodes}
    body: ComfyApiError = {"error": problem}
    headers = common_headers(error)
    return json_reply(body, status, headers)


def _of_nodes(problems: tuple[FieldProblem, ...]) -> dict[str, list[dict[str, str]]]:
    """Problems by the node that each is of."""
    nodes: dict[str, list[dict[str, str]]] = {}
    for node, where, problem in problems_of_nodes(problems):
        fault = {"field": where[-1] if where else "", "reason": problem.message}
        nodes.setdefault(node, []).append(fault)
    return nodes
