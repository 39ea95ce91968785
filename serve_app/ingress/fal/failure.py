"""Attempts that ended in an error, as fal tells it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from serve_app.domain.errors import Expired, FieldProblem, field_loc
from serve_app.domain.outcome import Failure
from serve_app.ingress.errors import BY_CODE, INTERNAL, Answer, problem_item
from serve_app.ingress.reply import json_reply

FIELD_AT_FAULT = Answer(422, "value_error")


def answer_for(failure: Failure) -> Answer:
    """HTTP status and fal's type. A field at fault makes it the client's error."""
    if failure.field is not None:
        return Answer(FIELD_AT_FAULT.status, failure.type or FIELD_AT_FAULT.type)
    return BY_CODE.get(failure.code, INTERNAL)


def failure_body(failure: Failure) -> dict[str, Any]:
    answer = answer_for(failure)
    body: dict[str, Any] = {"message": failure.message, "code": failure.code}
    if failure.field is not None:
        context = dict(failure.context) if failure.context else None
        message = failure.message.removeprefix(f"{failure.field}: ")
        problem = FieldProblem(field_loc(failure.field), message, answer.type, context)
        return body | {"detail": [problem_item(problem)]}
    # Text, not a list of one: fal's Python client shows `detail` as it is.
    return body | {"detail": failure.message, "error_type": answer.type}


def failure_reply(failure: Failure) -> Response:
    answer = answer_for(failure)
    headers = {
        "x-fal-retryable": "true" if failure.retryable else "false",
        "x-fal-error-type": answer.type,
    }
    if failure.code == Expired.code:
        # Only a time that the client set makes a request expire; with this its clients do not
        # retry.
        headers["x-fal-request-timeout-type"] = "user"
    return json_reply(failure_body(failure), answer.status, headers)
