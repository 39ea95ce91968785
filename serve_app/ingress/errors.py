"""The one table from errors to HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.domain import errors
from serve_app.domain.errors import DarkroomError, FieldProblem

ERROR_PAGE = "https://docs.fal.ai/errors/#"
"""Where fal explains the type of a problem; its clients show the link."""

STILL_IN_PROGRESS = "Request is still in progress"
"""Clients compare the body with this text, so it is the whole body."""

MAX_SHOWN_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """How an error is told: HTTP status and fal's ``error_type``."""

    status: int
    type: str


TABLE: Mapping[type[DarkroomError], Answer] = {
    errors.InvalidInput: Answer(422, "invalid_input"),
    errors.Unsupported: Answer(400, "feature_not_supported"),
    errors.UntrustedHost: Answer(400, "untrusted_host"),
    errors.Unauthenticated: Answer(401, "unauthorized"),
    errors.Forbidden: Answer(403, "forbidden"),
    errors.NotFound: Answer(404, "not_found"),
    errors.NotFinished: Answer(400, "not_finished"),
    errors.RequestActive: Answer(400, "request_active"),
    errors.RequestDeleted: Answer(410, "request_deleted"),
    errors.OutcomeForgotten: Answer(410, "outcome_forgotten"),
    errors.AlreadyFinal: Answer(400, "already_completed"),
    errors.TooLarge: Answer(413, "file_too_large"),
    errors.Overloaded: Answer(429, "concurrent_requests_limit"),
    errors.Unavailable: Answer(503, "runner_scheduling_failure"),
    errors.EndpointDraining: Answer(503, "runner_scheduling_failure"),
    errors.DatabaseUnavailable: Answer(503, "database_unavailable"),
    errors.StorageUnavailable: Answer(503, "storage_unavailable"),
    errors.StorageFull: Answer(507, "storage_full"),
    errors.Fenced: Answer(410, "fenced"),
    errors.GenerationError: Answer(500, "internal_server_error"),
    errors.PipelineFailed: Answer(500, "internal_server_error"),
    errors.WeightsUnavailable: Answer(500, "internal_server_error"),
    errors.SnapshotRefused: Answer(500, "internal_server_error"),
    errors.OutOfMemory: Answer(500, "runner_server_error"),
    errors.ReplicaDied: Answer(503, "runner_disconnected"),
    errors.Poison: Answer(500, "runner_disconnected"),
    errors.FailedByHand: Answer(500, "internal_server_error"),
    errors.Cancelled: Answer(499, "client_cancelled"),
    errors.Expired: Answer(504, "request_timeout"),
    errors.Misconfigured: Answer(500, "internal_error"),
    DarkroomError: Answer(500, "internal_error"),
}
"""A class that is not here is answered like the nearest of its parents that is."""

BY_CODE: Mapping[str, Answer] = {cls.code: answer for cls, answer in TABLE.items()}
"""For the stored failure of an attempt, which carries the code of its error."""

INTERNAL = TABLE[DarkroomError]


def answer_for(error: DarkroomError) -> Answer:
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def body_for(error: DarkroomError) -> dict[str, Any]:
    """``detail`` is what fal's clients read; ``message`` is what its JavaScript client shows."""
    if isinstance(error, errors.NotFinished):
        return {"detail": STILL_IN_PROGRESS}
    if isinstance(error, errors.InvalidInput):
        problems = error.problems or (FieldProblem(("body",), error.message, "value_error"),)
        return {"detail": [problem_item(each) for each in problems], "message": error.message}
    return {
        "detail": error.message,
        "message": error.message,
        "error_type": answer_for(error).type,
        "code": error.code,
    }


def headers_for(error: DarkroomError) -> dict[str, str]:
    headers = {
        "x-fal-retryable": "true" if error.retryable else "false",
        "x-fal-error-type": answer_for(error).type,
    }
    if isinstance(error, errors.InvalidInput):
        headers["x-fal-billable-units"] = "0"
    elif isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Key"
    elif isinstance(error, errors.Overloaded):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["x-fal-needs-retry"] = "1"
    elif isinstance(error, errors.Unavailable):
        headers["retry-after"] = str(error.retry_after_s)
    return headers


def problem_item(problem: FieldProblem) -> dict[str, Any]:
    """One item of ``detail`` in fal's shape."""
    item: dict[str, Any] = {
        "loc": list(problem.loc),
        "msg": problem.message,
        "type": problem.type,
        "url": ERROR_PAGE + problem.type,
    }
    if problem.context:
        item["ctx"] = problem.context
    if problem.value is not None and len(repr(problem.value)) <= MAX_SHOWN_CHARACTERS:
        item["input"] = problem.value
    return item
