"""Errors in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain import errors
from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.outcome import Failure
from serve_app.ingress.http.errors import common_headers, field_problems, http_answer, json_reply
from serve_app.ingress.http.openapi import ErrorFormat
from serve_app.ingress.submission.failures import answer_for as answer_for_failure

INVALID_REQUEST = "invalid_request_error"

TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error"}
"""HTTP status → OpenAI's type of error, if it is not the general one of the client's or the
server's errors."""

CODES: Mapping[str, str] = {
    errors.Unauthenticated.code: "invalid_api_key",
    errors.EndpointNotFound.code: "model_not_found",
    errors.EndpointNotServed.code: "model_not_found",
    errors.Overloaded.code: "rate_limit_exceeded",
    errors.RateLimited.code: "rate_limit_exceeded",
    errors.BudgetExhausted.code: "insufficient_quota",
}
"""Code of an error → the code that OpenAI's clients know, if there is one."""


TAG = "openai"


class OpenAiErrorDetails(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(TypedDict):
    """Body of an error."""

    error: OpenAiErrorDetails


ERRORS = ErrorFormat(
    OpenAiError,
    {
        400: "A parameter is not valid or not supported; `param` names it.",
        404: "There is no such model, or it was not found.",
        504: "The request did not start, or end, within the time that the client set.",
    },
)
AT_SUBMIT, AT_END = (400, 403, 404, 413, 429, 503, 507), (410, 499, 500, 504)


def error_response(error: DarkroomError) -> Response:
    """Error response. OpenAI answers invalid input with 400, and a missing model with 404."""
    status = http_answer(error).status
    if isinstance(error, InvalidInput):
        status = 400
    elif isinstance(error, errors.EndpointNotServed):
        status = 404
    param = next((_param(problem.loc) for problem in field_problems(error)), None)
    headers = common_headers(error)
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    # OpenAI's clients retry every 429 and 5xx without this header.
    headers["x-should-retry"] = "true" if error.retryable else "false"
    body = error_body(error.message, status, CODES.get(error.code, error.code), param)
    return json_reply(body, status, headers)


def failure_response(failure: Failure, names: Mapping[str, str]) -> Response:
    """Response for a failed attempt. ``names``: as for ``routing.rename_locations``."""
    headers = {"x-should-retry": "true" if failure.retryable else "false"}
    return json_reply(failure_body(failure, names), failure_status(failure), headers)


def failure_status(failure: Failure) -> int:
    return 400 if failure.field is not None else answer_for_failure(failure).status


def failure_body(failure: Failure, names: Mapping[str, str]) -> OpenAiError:
    first, _, rest = (failure.field or "").partition(".")
    param = ".".join(part for part in (names.get(first, first), rest) if part) or None
    return error_body(failure.message, failure_status(failure), failure.code, param)


def error_body(message: str, status: int, code: str, param: str | None = None) -> OpenAiError:
    type_ = "rate_limit_error" if status == 429 else TYPES.get(status, INVALID_REQUEST)
    if status >= 500:
        type_ = "server_error"
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def _param(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc[1:]) or str(loc[0])
