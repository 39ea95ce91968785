"""Responses for attempts that ended in an error, in fal's format."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.responses import Response

from serve_app.domain.errors import Expired, FieldProblem, field_loc
from serve_app.domain.outcome import Failure
from serve_app.ingress.http.errors import (
    BY_CODE,
    INTERNAL,
    Error,
    ErrorResponse,
    ValidationError,
    json_reply,
    problem_item,
)

FIELD_AT_FAULT = ErrorResponse(422, "value_error")
_TYPE = re.compile(r"[\w.-]{1,100}", re.ASCII)
"""Type of a wrong field. It becomes a header, and apps name types of their own."""


def answer_for(failure: Failure) -> ErrorResponse:
    """HTTP status and fal's type of a failure. A failure at a field is the client's error."""
    if failure.field is not None:
        named = failure.type if _TYPE.fullmatch(failure.type or "") else None
        return ErrorResponse(FIELD_AT_FAULT.status, named or FIELD_AT_FAULT.type)
    return BY_CODE.get(failure.code, INTERNAL)


def failure_body(failure: Failure) -> Error | ValidationError:
    answer = answer_for(failure)
    if failure.field is not None:
        context = dict(failure.context) if failure.context else None
        message = failure.message.removeprefix(f"{failure.field}: ")
        problem = FieldProblem(field_loc(failure.field), message, answer.type, context)
        return {
            "message": failure.message,
            "code": failure.code,
            "detail": [problem_item(problem)],
        }
    # Text, not a list with one item: fal's Python client shows `detail` as it is.
    return {
        "message": failure.message,
        "code": failure.code,
        "detail": failure.message,
        "error_type": answer.type,
    }


def failure_reply(failure: Failure, more: Mapping[str, str] | None = None) -> Response:
    """Response for a failure. ``more``: headers to add."""
    answer = answer_for(failure)
    headers = {
        "x-fal-retryable": "true" if failure.retryable else "false",
        "x-fal-error-type": answer.type,
    }
    if failure.code == Expired.code:
        # A request expires only by a time limit that the client set. This header stops the
        # client's retries.
        headers["x-fal-request-timeout-type"] = "user"
    return json_reply(failure_body(failure), answer.status, headers | dict(more or {}))
