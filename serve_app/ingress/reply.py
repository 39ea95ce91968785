"""Answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from serve_app.domain.errors import DarkroomError
from serve_app.ingress.errors import answer_for, body_for, headers_for

_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def json_reply(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(_encode(content), status, headers, "application/json")


def error_reply(error: DarkroomError) -> Response:
    return json_reply(body_for(error), answer_for(error).status, headers_for(error))
