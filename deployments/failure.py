"""What a client is told of an error."""

from __future__ import annotations

from dataclasses import replace

from serve_app.domain.errors import DarkroomError, InvalidInput, PipelineFailed
from serve_app.domain.outcome import Failure


def as_failure(error: Exception) -> Failure:
    """What the owner of the request reads: never a traceback."""
    if not isinstance(error, DarkroomError):
        error = PipelineFailed(f"{type(error).__name__}: {error}")
    failure = Failure(error.code, error.message, error.retryable)
    if isinstance(error, InvalidInput) and error.problems:
        first = error.problems[0]
        field = ".".join(str(part) for part in first.loc[1:])
        failure = replace(failure, field=field, type=first.type, context=first.context)
    return failure
