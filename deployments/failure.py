"""What a client is told of an error."""

from __future__ import annotations

from serve_app.domain.errors import DarkroomError, InvalidInput, PipelineFailed
from serve_app.domain.outcome import Failure


def as_failure(error: Exception) -> Failure:
    """What the owner of the request reads: never a traceback."""
    if not isinstance(error, DarkroomError):
        error = PipelineFailed(f"{type(error).__name__}: {error}")
    field = None
    if isinstance(error, InvalidInput) and error.problems:
        field = ".".join(str(part) for part in error.problems[0].loc[1:])
    return Failure(error.code, error.message, error.retryable, field)
