"""pydantic's complaints in the words of fal's error list."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serve_app.domain.errors import FieldProblem, InvalidInput

_FALS = {
    "literal_error": "one_of",
    "enum": "one_of",
    "too_short": "sequence_too_short",
    "too_long": "sequence_too_long",
    "string_too_short": "sequence_too_short",
    "string_too_long": "sequence_too_long",
}
"""pydantic's types that fal lists under names of its own."""


def invalid_input(error: ValidationError) -> InvalidInput:
    """The same problems as an ``InvalidInput``, whose message names the first field."""
    details = error.errors(include_url=False)
    problems = tuple(_problem(detail) for detail in details)
    first = problems[0]
    field = ".".join(str(part) for part in first.loc[1:])
    message = f"{field}: {first.message}" if field else first.message
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more)"
    return InvalidInput(message, problems)


def _problem(detail: ErrorDetails) -> FieldProblem:
    type_, context = detail["type"], dict(detail.get("ctx") or {})
    type_ = _FALS.get(type_, type_)
    # A raised ValueError object is of no use to the client, and its text is in the message.
    context.pop("error", None)
    for only_in_message in ("names", "more", "why"):
        context.pop(only_in_message, None)
    return FieldProblem(
        loc=("body", *detail["loc"]),
        message=detail["msg"],
        type=type_,
        context=context or None,
        value=_shown(detail),
    )


def _shown(detail: ErrorDetails) -> Any:
    # For a missing field pydantic shows the whole object around it.
    return None if detail["type"] == "missing" else detail["input"]
