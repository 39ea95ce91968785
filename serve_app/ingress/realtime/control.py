"""What a session says besides its frames: JSON in text messages, and how the socket is closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve_app.domain.errors import (
    DarkroomError,
    InvalidInput,
    Overloaded,
    Unauthenticated,
    Unavailable,
)
from serve_app.domain.outcome import Failure
from serve_app.ingress.errors import answer_for, problem_item
from serve_app.ingress.fal.failure import answer_for as answer_for_failure

CLEAN, GOING_AWAY, REFUSED, BROKEN, RESTART, LATER = 1000, 1001, 1008, 1011, 1012, 1013
"""Codes of RFC 6455 and its registry."""

LONGEST_REASON = 123  # bytes; the protocol's own limit

Control = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a socket, and what is said before it."""

    code: int
    reason: str
    said: Control | None = None

    @property
    def short_reason(self) -> str:
        return self.reason.encode()[:LONGEST_REASON].decode(errors="ignore")


def failed(error: str, reason: str, **more: Any) -> Control:
    """Both of fal's clients raise it, the JavaScript one as ``error: reason``."""
    return {"type": "x-fal-error", "error": error, "reason": reason, **more}


def refused(error: DarkroomError, **more: Any) -> Control:
    """An error of ours. Of a token or key that is not valid, the form that has the JavaScript
    client ask for another token."""
    if isinstance(error, Unauthenticated):
        return failed("Unauthorized", error.message, status="error", **more)
    if isinstance(error, InvalidInput) and error.problems:
        more["detail"] = [problem_item(each) for each in error.problems]
    return failed(answer_for(error).type.upper(), error.message, **more)


def of_failure(failure: Failure, **more: Any) -> Control:
    """How an attempt failed, or a frame."""
    return failed(answer_for_failure(failure).type.upper(), failure.message, **more)


def dropped(echo: Control) -> Control:
    """A frame gave way to newer ones. fal's clients pass over messages of this type."""
    return {"type": "x-fal-message", "action": "dropped", **echo}


def closing(error: DarkroomError) -> Close:
    """What a socket ends with that is refused, or breaks."""
    code = BROKEN
    if isinstance(error, (Overloaded, Unavailable)):
        code = LATER
    elif answer_for(error).status < 500:
        code = REFUSED
    return Close(code, error.message, refused(error))
