"""State of a request in fal's words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.domain.progress import Stage
from serve_app.domain.request import LogLine, Request, State, Waiting
from serve_app.ingress.fal.previews import InlinePreview
from serve_app.ingress.http.errors import iso
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.paths import RequestUrls
from serve_app.ingress.submission.failures import answer_for
from serve_app.ingress.submission.status import (
    FallbackStatus,
    RetriesLeft,
    WaitingStatus,
    fallback_body,
    retries_body,
    round_significant,
    waiting_body,
)
from serve_app.ingress.workflows.status import WorkflowStatus

WireStatus = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


class QueueLogLine(TypedDict):
    """Line of a request's log."""

    message: str
    level: str
    source: str
    timestamp: Time


class QueueMetrics(TypedDict, total=False):
    inference_time: float | None


class QueuedDetails(WaitingStatus):
    """Details of a queued request, which only Darkroom has."""

    retries_left: NotRequired[RetriesLeft]
    fallback: NotRequired[FallbackStatus]


class RunningDetails(TypedDict):
    """Details of a running request, which only Darkroom has."""

    stage: Stage | None
    step: int
    steps: Annotated[int, Field(description="0: not known.")]
    rate: Annotated[float | None, Field(description="Steps per second.")]
    left_s: Annotated[float | None, Field(description="Seconds to the end of the stage.")]
    preview: Annotated[str | None, Field(description="URL of the newest preview.")]
    attempt: int
    cancel_requested: bool
    ends_at: Annotated[Time | None, Field(description="Expected end; null: not known.")]
    retries_left: NotRequired[RetriesLeft]
    fallback: NotRequired[FallbackStatus]
    workflow: NotRequired[WorkflowStatus]


class EndedDetails(TypedDict):
    """Details of an ended request, which only Darkroom has."""

    state: State
    attempt: int
    total_s: Annotated[float | None, Field(description="Seconds from the submit to the end.")]
    retries_left: NotRequired[RetriesLeft]
    fallback: NotRequired[FallbackStatus]
    workflow: NotRequired[WorkflowStatus]


class StatusDetails(TypedDict):
    """Fields that depend on the state of a request."""

    darkroom: Annotated[
        QueuedDetails | RunningDetails | EndedDetails,
        Field(description="What only Darkroom has: reason, stage, step, expected times."),
    ]
    queue_position: NotRequired[Annotated[int, Field(description="While it is queued; 0 is next.")]]
    metrics: NotRequired[QueueMetrics]
    error: NotRequired[Annotated[str, Field(description="Why it failed or was cancelled.")]]
    error_type: NotRequired[str]


class StatusResult(TypedDict):
    """Result of a request that has ended, as its own call answers it."""

    status: Annotated[int, Field(description="HTTP status of that call.")]
    body: dict[str, Any]


class QueueStatus(StatusDetails, RequestUrls):
    """Status of a request."""

    status: WireStatus
    request_id: str
    gateway_request_id: NotRequired[str]
    logs: list[QueueLogLine] | None
    images: NotRequired[
        Annotated[list[InlinePreview], Field(description="A new preview, with `previews=1`.")]
    ]
    result: NotRequired[Annotated[StatusResult, Field(description="With `result=1`, at the end.")]]


def status_body(
    request: Request,
    waiting: Waiting | None,
    log: Sequence[LogLine] | None,
    urls: RequestUrls,
    ends_at: datetime | None = None,
    preview: str | None = None,
) -> QueueStatus:
    """fal's status fields, and under ``darkroom`` the information that fal does not have.

    ``waiting``: while the request is queued. ``ends_at``: while it runs, if it is known.
    ``preview``: URL of the newest preview. Failure and cancellation are COMPLETED with ``error``,
    because fal's clients know no other final status.
    """
    return {
        "status": wire_status(request),
        "request_id": request.id,
        **urls,
        "logs": None if log is None else [log_line(line) for line in log],
        **status_details(request, waiting, ends_at, preview),
    }


def status_details(
    request: Request,
    waiting: Waiting | None = None,
    ends_at: datetime | None = None,
    preview: str | None = None,
) -> StatusDetails:
    """Fields of ``status_body`` that depend on the state."""
    if waiting is not None:
        body = _queue_details(waiting)
    elif not request.state.final:
        body = _running(request, ends_at, preview)
    else:
        body = _end_details(request)
    if request.retries_left is not None:
        body["darkroom"]["retries_left"] = retries_body(request.retries_left)
    if (fallback := fallback_body(request)) is not None:
        body["darkroom"]["fallback"] = fallback
    return body


def with_workflow(body: QueueStatus, workflow: WorkflowStatus | None) -> QueueStatus:
    """Status with the steps of a request to a workflow; None: it has none."""
    details = body["darkroom"]
    if workflow is not None and "attempt" in details:
        cast("RunningDetails | EndedDetails", details)["workflow"] = workflow
    return body


def wire_status(request: Request) -> WireStatus:
    if request.state is State.QUEUED:
        return "IN_QUEUE"
    return "COMPLETED" if request.state.final else "IN_PROGRESS"


def log_line(line: LogLine) -> QueueLogLine:
    return {
        "message": line.message,
        "level": line.level,
        "source": "USER",
        "timestamp": line.at.isoformat(),
    }


def version(request: Request, lines: int) -> Hashable:
    """Key that changes whenever a held poll must be answered."""
    progress = request.progress
    return (
        request.state,
        request.attempt,
        request.cancel_requested,
        (progress.stage, progress.step, progress.steps) if progress else None,
        request.preview_step,
        lines,
    )


def _queue_details(waiting: Waiting) -> StatusDetails:
    return {"queue_position": waiting.position, "darkroom": {**waiting_body(waiting)}}


def _running(request: Request, ends_at: datetime | None, preview: str | None) -> StatusDetails:
    progress = request.progress
    details: RunningDetails = {
        "stage": progress.stage if progress else None,
        "step": progress.step if progress else 0,
        "steps": progress.steps if progress else 0,
        "rate": round_significant(progress.rate) if progress and progress.rate else None,
        "left_s": round_significant(progress.left_s) if progress else None,
        "preview": preview,
        "attempt": request.attempt,
        "cancel_requested": request.cancel_requested,
        "ends_at": iso(ends_at),
    }
    return {"darkroom": details}


def _end_details(request: Request) -> StatusDetails:
    outcome, end_at = request.outcome, request.finished_at
    total_s = None if end_at is None else (end_at - request.created_at).total_seconds()
    end: StatusDetails = {
        "metrics": {"inference_time": outcome.usage.run_s if outcome else None},
        "darkroom": {"state": request.state, "attempt": request.attempt, "total_s": total_s},
    }
    if outcome is not None and outcome.failure is not None:
        end["error"] = outcome.failure.message
        end["error_type"] = answer_for(outcome.failure).type
    return end
