"""Errors in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from serve_app.domain import errors
from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.domain.outcome import Failure
from serve_app.ingress.errors import answer_for, headers_for
from serve_app.ingress.fal.failure import answer_for as answer_for_failure
from serve_app.ingress.reply import json_reply

INVALID_REQUEST = "invalid_request_error"

TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error"}
"""HTTP status → OpenAI's type of error, where it is neither the client's nor the server's plain
fault."""

CODES: Mapping[str, str] = {
    errors.Unauthenticated.code: "invalid_api_key",
    errors.EndpointNotFound.code: "model_not_found",
    errors.EndpointNotServed.code: "model_not_found",
    errors.Overloaded.code: "rate_limit_exceeded",
}
"""Code of an error → the one that OpenAI's clients know, where they know one."""


def refused(error: DarkroomError) -> Response:
    """OpenAI says 400 of an input that is not valid, and 404 of a model that is not there."""
    status = answer_for(error).status
    if isinstance(error, InvalidInput):
        status = 400
    elif isinstance(error, errors.EndpointNotServed):
        status = 404
    param = (
        _param(error.problems[0].loc)
        if isinstance(error, InvalidInput) and error.problems
        else None
    )
    headers = {
        name: value for name, value in headers_for(error).items() if not name.startswith("x-fal-")
    }
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    # Its clients retry every 429 and 5xx unless told.
    headers["x-should-retry"] = "true" if error.retryable else "false"
    body = error_body(error.message, status, CODES.get(error.code, error.code), param)
    return json_reply(body, status, headers)


def failed(failure: Failure, names: Mapping[str, str]) -> Response:
    """An attempt that ended in an error. ``names``: as for ``translated.renamed``."""
    status = 400 if failure.field is not None else answer_for_failure(failure).status
    headers = {"x-should-retry": "true" if failure.retryable else "false"}
    return json_reply(failure_body(failure, names), status, headers)


def failure_body(failure: Failure, names: Mapping[str, str]) -> dict[str, Any]:
    status = 400 if failure.field is not None else answer_for_failure(failure).status
    first, _, rest = (failure.field or "").partition(".")
    param = ".".join(part for part in (names.get(first, first), rest) if part) or None
    return error_body(failure.message, status, failure.code, param)


def error_body(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    type_ = "rate_limit_error" if status == 429 else TYPES.get(status, INVALID_REQUEST)
    if status >= 500:
        type_ = "server_error"
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def _param(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc[1:]) or str(loc[0])
