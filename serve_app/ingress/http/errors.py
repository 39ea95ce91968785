"""JSON responses, and the only table from errors to HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NotRequired

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain import errors
from serve_app.domain.billing.budgets import Allowance
from serve_app.domain.errors import DarkroomError, FieldProblem

ERROR_PAGE = "https://docs.fal.ai/errors/#"
"""Page where fal explains the types of problems; its clients show the link."""

STILL_IN_PROGRESS = "Request is still in progress"
"""Clients compare the body with this text, so it is the whole body."""

MAX_SHOWN_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """HTTP status and fal's ``error_type`` of an error.

    ``transient``: it soon ends by itself, so a client can repeat the call at once.
    """

    status: int
    type: str
    transient: bool = False


TABLE: Mapping[type[DarkroomError], ErrorResponse] = {
    errors.InvalidInput: ErrorResponse(422, "invalid_input"),
    errors.Unsupported: ErrorResponse(400, "feature_not_supported"),
    errors.UntrustedHost: ErrorResponse(400, "untrusted_host"),
    errors.Unauthenticated: ErrorResponse(401, "unauthorized"),
    errors.Forbidden: ErrorResponse(403, "forbidden"),
    errors.TenantDisabled: ErrorResponse(403, "tenant_disabled"),
    errors.TenantBeingDeleted: ErrorResponse(400, "tenant_being_deleted"),
    errors.NotFound: ErrorResponse(404, "not_found"),
    errors.MethodNotAllowed: ErrorResponse(405, "method_not_allowed"),
    errors.NotFinished: ErrorResponse(400, "not_finished"),
    errors.EntryExists: ErrorResponse(412, "entry_exists"),
    errors.RequestActive: ErrorResponse(400, "request_active"),
    errors.RequestDeleted: ErrorResponse(410, "request_deleted"),
    errors.OutcomeForgotten: ErrorResponse(410, "outcome_forgotten"),
    errors.AlreadyFinal: ErrorResponse(400, "already_completed"),
    errors.TooLarge: ErrorResponse(413, "file_too_large"),
    errors.BodyTooSlow: ErrorResponse(408, "request_timeout"),
    errors.Overloaded: ErrorResponse(429, "concurrent_requests_limit"),
    errors.RateLimited: ErrorResponse(429, "rate_limited"),
    errors.BudgetExhausted: ErrorResponse(403, "forbidden"),  # as fal's, by status and words
    errors.Unavailable: ErrorResponse(503, "runner_scheduling_failure"),
    errors.EndpointDraining: ErrorResponse(503, "runner_scheduling_failure"),
    errors.NodesUnknown: ErrorResponse(503, "nodes_unknown"),
    errors.DatabaseUnavailable: ErrorResponse(503, "database_unavailable", transient=True),
    errors.ProviderUnavailable: ErrorResponse(503, "provider_unavailable", transient=True),
    errors.StorageUnavailable: ErrorResponse(503, "storage_unavailable", transient=True),
    errors.StorageFull: ErrorResponse(507, "storage_full"),
    errors.Fenced: ErrorResponse(410, "fenced"),
    errors.GenerationError: ErrorResponse(500, "internal_server_error"),
    errors.PipelineFailed: ErrorResponse(500, "internal_server_error"),
    errors.WeightsUnavailable: ErrorResponse(500, "internal_server_error"),
    errors.AppNotStarted: ErrorResponse(500, "internal_server_error"),
    errors.SecretMissing: ErrorResponse(400, "secret_missing"),
    errors.HostedFailed: ErrorResponse(500, "internal_server_error"),
    errors.HostedUnconfirmed: ErrorResponse(500, "internal_server_error"),
    errors.MarkMissing: ErrorResponse(500, "internal_server_error"),
    errors.NotSigned: ErrorResponse(500, "internal_server_error"),
    errors.ContentBlocked: ErrorResponse(422, "content_policy_violation"),
    errors.UploadPolicyFailed: ErrorResponse(424, "upload_policy_failed"),  # as in fal
    errors.SnapshotRefused: ErrorResponse(500, "internal_server_error"),
    errors.ForkRefused: ErrorResponse(422, "unprocessable_draft"),
    errors.OutOfMemory: ErrorResponse(500, "runner_server_error"),
    errors.ReplicaDied: ErrorResponse(503, "runner_disconnected"),
    errors.Poison: ErrorResponse(500, "runner_disconnected"),
    errors.FailedByHand: ErrorResponse(500, "internal_server_error"),
    errors.Cancelled: ErrorResponse(499, "client_cancelled"),
    errors.Expired: ErrorResponse(504, "request_timeout"),
    errors.Misconfigured: ErrorResponse(500, "internal_error"),
    DarkroomError: ErrorResponse(500, "internal_error"),
}
"""Subclasses that are not listed get the answer of their nearest listed base class."""

BY_CODE: Mapping[str, ErrorResponse] = {cls.code: answer for cls, answer in TABLE.items()}
"""Answers by error code, for the stored failure of an attempt."""

INTERNAL = TABLE[DarkroomError]

REPEATED = "Darkroom, not nginx"
"""Text in the body of a transient error. fal's Python client repeats a call after a 503 of a proxy
only, which it knows by the word nginx and by the absence of ``x-fal-request-id``."""


def http_answer(error: DarkroomError) -> ErrorResponse:
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


class Error(TypedDict):
    """Body of an error."""

    detail: Annotated[str, Field(description="Message that fal's clients show.")]
    message: NotRequired[str]
    code: NotRequired[
        Annotated[str, Field(description="Stable code; see docs/reference/errors.md.")]
    ]
    error_type: NotRequired[Annotated[str, Field(description="fal's name of the error.")]]
    status: NotRequired[
        Annotated[str, Field(description="`NOT_FOUND` if the request does not exist.")]
    ]
    server: NotRequired[
        Annotated[str, Field(description="Has fal's Python client repeat the call.")]
    ]


class FieldError(TypedDict):
    """Field that is not valid."""

    loc: list[Any]
    msg: str
    type: str
    url: NotRequired[str]
    ctx: NotRequired[dict[str, Any]]
    input: NotRequired[Any]


class ValidationError(TypedDict):
    """Body of an error with status 422."""

    detail: list[FieldError]
    message: NotRequired[str]
    code: NotRequired[str]


def body_for(error: DarkroomError) -> Error | ValidationError:
    """Response body of an error.

    fal's clients read ``detail``; its JavaScript client shows ``message``.
    """
    if isinstance(error, errors.NotFinished):
        return {"detail": STILL_IN_PROGRESS}
    if isinstance(error, errors.InvalidInput):
        problems = error.problems or (FieldProblem(("body",), error.message, "value_error"),)
        return {"detail": [problem_item(problem) for problem in problems], "message": error.message}
    answer = http_answer(error)
    body: Error = {
        "detail": error.message,
        "message": error.message,
        "error_type": answer.type,
        "code": error.code,
    }
    return {**body, "server": REPEATED} if answer.transient else body


JSON_INVALID = "json_invalid"
"""Type of the problem of a body that is no JSON. Its location ends with a position, not a field."""


def field_problems(error: DarkroomError) -> tuple[FieldProblem, ...]:
    """Problems of an error that name a field or a parameter."""
    problems = error.problems if isinstance(error, errors.InvalidInput) else ()
    return tuple(problem for problem in problems if problem.type != JSON_INVALID)


def headers_for(error: DarkroomError) -> dict[str, str]:
    """Headers of an error by fal's protocol."""
    headers = common_headers(error) | {
        "x-fal-retryable": "true" if error.retryable else "false",
        "x-fal-error-type": http_answer(error).type,
    }
    if isinstance(error, errors.InvalidInput):
        headers["x-fal-billable-units"] = "0"
    elif isinstance(error, errors.Overloaded):
        headers["x-fal-needs-retry"] = "1"
    return headers


def common_headers(error: DarkroomError) -> dict[str, str]:
    """Headers of an error that every protocol sends."""
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unauthenticated):
        headers["www-authenticate"] = "Key"
    elif isinstance(error, errors.MethodNotAllowed):
        headers["allow"] = error.allowed
    elif isinstance(error, errors.Overloaded):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        if isinstance(error, errors.RateLimited):
            headers |= allowance_headers(error.allowance)
    elif isinstance(error, errors.BudgetExhausted):
        headers |= allowance_headers(error.allowance)
    elif isinstance(error, errors.Unavailable):
        headers["retry-after"] = str(error.retry_after_s)
    return headers


def allowance_headers(allowance: Allowance | None) -> dict[str, str]:
    """What a tenant has left: of its rate, in headers that clients of several services read, with
    the reset in seconds; of its budget, in headers of our own."""
    headers: dict[str, str] = {}
    if allowance is None:
        return headers
    if (rate := allowance.rate) is not None:
        headers["x-ratelimit-limit-requests"] = str(rate.limit)
        headers["x-ratelimit-remaining-requests"] = str(rate.remaining)
        headers["x-ratelimit-reset-requests"] = f"{math.ceil(rate.reset_s)}s"
    if (budget := allowance.budget) is not None:
        remaining = max(budget.remaining, Decimal(0))
        headers["x-darkroom-budget-limit"] = f"{budget.limit:f} {budget.currency}"
        headers["x-darkroom-budget-remaining"] = f"{remaining:f} {budget.currency}"
        headers["x-darkroom-budget-reset"] = budget.resets_at.isoformat()
    return headers


def problem_item(problem: FieldProblem) -> FieldError:
    """One item of ``detail`` in fal's format."""
    item: FieldError = {
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


# JSON responses.


def iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def encode_json(content: Any) -> bytes:
    """JSON in UTF-8. Halves of surrogate pairs, which apps cut out of texts, become ``?``.
    ``ValueError``: a number is not finite."""
    return _encode(content).encode("utf-8", "replace")


def json_reply(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(encode_json(content), status, headers, "application/json")


def error_reply(error: DarkroomError) -> Response:
    return json_reply(body_for(error), http_answer(error).status, headers_for(error))
