"""Errors in Replicate's shape: problem details, as RFC 7807 has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from serve_app.domain.errors import DarkroomError, InvalidInput
from serve_app.ingress.errors import answer_for, headers_for
from serve_app.ingress.reply import json_reply

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


def refused(error: DarkroomError) -> Response:
    status = answer_for(error).status
    body: dict[str, Any] = {
        "title": TITLES.get(status, "Server error" if status >= 500 else "Bad request"),
        "detail": error.message,
        "status": status,
        "code": error.code,
    }
    if isinstance(error, InvalidInput) and error.problems:
        fields = [
            {"type": each.type, "field": field_of(each.loc), "description": each.message}
            for each in error.problems
        ]
        body["invalid_fields"] = fields
        body["detail"] = "\n".join(f"- {one['field']}: {one['description']}" for one in fields)
    headers = {
        name: value for name, value in headers_for(error).items() if not name.startswith("x-fal-")
    }
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_reply(body, status, headers)


def field_of(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc[1:]) or str(loc[0])
