"""Errors in Replicate's format: problem details, as in RFC 7807."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired

from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import DarkroomError
from serve_app.ingress.http.errors import common_headers, field_problems, http_answer, json_reply
from serve_app.ingress.http.openapi import ErrorFormat

TITLES: Mapping[int, str] = {
    401: "Unauthenticated",
    403: "Forbidden",
    404: "Not found",
    410: "Gone",
    413: "Too large",
    422: "Input validation failed",
    429: "Too many requests",
    503: "Unavailable",
    507: "Insufficient storage",
}


TAG = "replicate"


class InvalidField(TypedDict):
    type: str
    field: str
    description: str


class ReplicateError(TypedDict):
    """Body of an error."""

    title: str
    detail: str
    status: int
    code: NotRequired[str]
    invalid_fields: NotRequired[list[InvalidField]]


ERRORS = ErrorFormat(
    ReplicateError,
    {
        400: "Not supported by this installation.",
        422: "A field is not valid; `invalid_fields` names each.",
    },
)


def error_response(error: DarkroomError) -> Response:
    status = http_answer(error).status
    body: ReplicateError = {
        "title": TITLES.get(status, "Server error" if status >= 500 else "Bad request"),
        "detail": error.message,
        "status": status,
        "code": error.code,
    }
    if problems := field_problems(error):
        fields: list[InvalidField] = [
            {"type": problem.type, "field": field_of(problem.loc), "description": problem.message}
            for problem in problems
        ]
        body["invalid_fields"] = fields
        body["detail"] = "\n".join(
            f"- {field['field']}: {field['description']}" for field in fields
        )
    headers = common_headers(error)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_reply(body, status, headers)


def field_of(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc[1:]) or str(loc[0])
