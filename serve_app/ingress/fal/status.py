"""A request's state in fal's words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from serve_app.domain.request import LogLine, Request, State, Waiting
from serve_app.ingress.fal.failure import answer_for
from serve_app.ingress.standing import iso, short, waiting_body

IN_QUEUE, IN_PROGRESS, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"


def status_body(
    request: Request,
    waiting: Waiting | None,
    log: Sequence[LogLine] | None,
    urls: dict[str, str],
    ends_at: datetime | None = None,
    preview: str | None = None,
) -> dict[str, Any]:
    """fal's fields, and under ``darkroom`` what fal does not tell.

    ``waiting`` is given while the request is queued, ``ends_at`` while it runs, if it is known,
    ``preview`` is where to ask for one.
    Failure and cancellation are COMPLETED with ``error``, because fal's clients know no other end.
    """
    body: dict[str, Any] = {"status": wire_status(request), "request_id": request.id, **urls}
    body["logs"] = None if log is None else [log_line(line) for line in log]
    if waiting is not None:
        body["queue_position"] = waiting.position
        body["darkroom"] = waiting_body(waiting)
    elif not request.state.final:
        body["darkroom"] = _progress(request, preview) | {"ends_at": iso(ends_at)}
    else:
        body |= _end(request)
    if request.retries_left is not None:
        body["darkroom"]["retries_left"] = asdict(request.retries_left)
    return body


def wire_status(request: Request) -> str:
    if request.state is State.QUEUED:
        return IN_QUEUE
    return COMPLETED if request.state.final else IN_PROGRESS


def log_line(line: LogLine) -> dict[str, str]:
    return {
        "message": line.message,
        "level": line.level,
        "source": "USER",
        "timestamp": line.at.isoformat(),
    }


def version(request: Request, lines: int) -> Hashable:
    """Equal for two answers between which nothing changed that ends the hold of a poll."""
    progress = request.progress
    return (
        request.state,
        request.attempt,
        request.cancel_requested,
        (progress.stage, progress.step, progress.steps) if progress else None,
        request.preview_step,
        lines,
    )


def _progress(request: Request, preview: str | None) -> dict[str, Any]:
    progress = request.progress
    return {
        "stage": progress.stage.value if progress else None,
        "step": progress.step if progress else 0,
        "steps": progress.steps if progress else 0,
        "rate": short(progress.rate) if progress and progress.rate else None,
        "left_s": short(progress.left_s) if progress else None,
        "preview": preview,
        "attempt": request.attempt,
        "cancel_requested": request.cancel_requested,
    }


def _end(request: Request) -> dict[str, Any]:
    outcome = request.outcome
    end: dict[str, Any] = {
        "metrics": {"inference_time": outcome.usage.run_s if outcome else None},
        "darkroom": {"state": request.state.value, "attempt": request.attempt},
    }
    if outcome is not None and outcome.failure is not None:
        end["error"] = outcome.failure.message
        end["error_type"] = answer_for(outcome.failure).type
    return end
