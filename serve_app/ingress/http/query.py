"""Reading and validation of query parameters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from starlette.requests import HTTPConnection

from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.ingress.services import request_ids


def page_size(request: HTTPConnection, *, default: int, most: int) -> int:
    """Read ``limit``. ``InvalidInput``: it is not from 1 to ``most``."""
    value = request.query_params.get("limit", str(default))
    if (size := _parse_count(value, most)) is None or size < 1:
        raise invalid("limit", f"should be from 1 to {most}", value)
    return size


def time(request: HTTPConnection, name: str) -> datetime | None:
    """Read a time with its zone, such as ``2026-01-31T12:00:00Z``. ``InvalidInput``."""
    value = request.query_params.get(name)
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is not None:
            return at
    except ValueError:
        pass
    raise invalid(name, "should be a time with its zone, such as 2026-01-31T12:00:00Z", value)


def whole_number(
    request: HTTPConnection, name: str, *, default: int, most: int, least: int = 0
) -> int:
    """Read a whole number. ``InvalidInput``: it is not from ``least`` to ``most``."""
    value = request.query_params.get(name, str(default))
    if (number := _parse_count(value, most)) is None or number < least:
        raise invalid(name, f"should be a whole number from {least} to {most}", value)
    return number


def text(request: HTTPConnection, name: str) -> str | None:
    """Read a text to search for. ``InvalidInput``: PostgreSQL cannot store it."""
    return next(reversed(_texts(request, name)), None)


def after_cursor(
    request: HTTPConnection,
    cursors: Sequence[str],
    what: str = "should be the next_cursor of the previous page",
) -> int:
    """Index of the first item behind ``cursor``. ``InvalidInput``: it is none of ``cursors``."""
    cursor = text(request, "cursor")
    if cursor is None:
        return 0
    if cursor not in cursors:
        raise invalid("cursor", what, cursor)
    return cursors.index(cursor) + 1


def request_id(
    request: HTTPConnection, name: str, what: str = "should be the id of a request"
) -> str | None:
    """Read the id of a request. ``InvalidInput``: it is none."""
    value = request.query_params.get(name)
    if value is not None and not request_ids.valid(value):
        raise invalid(name, what, value)
    return value


def yes_no(request: HTTPConnection, name: str, *, default: bool) -> bool:
    """Read ``true`` or ``false``. ``InvalidInput`` for any other value."""
    value = request.query_params.get(name, str(default).lower())
    if value not in ("true", "false"):
        raise invalid(name, "should be true or false", value)
    return value == "true"


def several(request: HTTPConnection, name: str) -> list[str]:
    """Read a parameter that may be repeated, or have several values separated by commas."""
    return [part for value in _texts(request, name) for part in value.split(",") if part]


def _parse_count(value: str, most: int) -> int | None:
    """Number from 0 to ``most``; None for anything else. The length is checked first, because
    Python refuses to read thousands of digits."""
    if not (value.isascii() and value.isdecimal() and len(value) <= len(str(most))):
        return None
    number = int(value)
    return number if number <= most else None


def _texts(request: HTTPConnection, name: str) -> list[str]:
    values = request.query_params.getlist(name)
    for value in values:
        if "\0" in value:
            raise invalid(name, "should not contain a null character", value)
    return values


def invalid(name: str, what: str, value: str) -> InvalidInput:
    """Build the error. ``what`` continues after the name, such as "should be a whole number"."""
    problem = FieldProblem(("query", name), f"{name} {what}", "value_error", None, value)
    return InvalidInput(f"The query parameter {name} {what}.", (problem,))
