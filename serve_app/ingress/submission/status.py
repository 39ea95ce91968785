"""State of a request, the same in all of our protocols."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, Retries, State, Waiting, WaitReason
from serve_app.ingress.http.errors import iso
from serve_app.ingress.http.json_schema import Time


class WaitingStatus(TypedDict):
    """Why a request waits, and when it is expected to run."""

    reason: WaitReason
    detail: str
    stage: Annotated[str | None, Field(description="Stage of a cold start.")]
    share: Annotated[float | None, Field(description="Finished share of that stage, 0 to 1.")]
    starts_at: Annotated[Time | None, Field(description="Expected start; null: not known.")]
    ends_at: Annotated[Time | None, Field(description="Expected end; null: not known.")]


def waiting_body(waiting: Waiting) -> WaitingStatus:
    """All fields but the position, which has a name of its own in each protocol."""
    return {
        "reason": waiting.reason,
        "detail": waiting.detail,
        "stage": waiting.stage,
        "share": round_significant(waiting.share),
        "starts_at": iso(waiting.starts_at),
        "ends_at": iso(waiting.ends_at),
    }


class FallbackStatus(TypedDict):
    """Endpoint that runs a request in place of its own, and why."""

    endpoint: str
    reason: Annotated[
        str, Field(description="`max_wait`, `deadline`, or the code of the failure before.")
    ]


def fallback_body(request: Request) -> FallbackStatus | None:
    """None: it runs at its own endpoint."""
    if not request.fell_back_to:
        return None
    return {"endpoint": request.fell_back_to, "reason": request.fell_back_for}


class RetriesLeft(TypedDict):
    """Retries that a request has left, by cause."""

    timeout: int
    server_error: int
    connection_error: int


def retries_body(retries: Retries) -> RetriesLeft:
    return {
        "timeout": retries.timeout,
        "server_error": retries.server_error,
        "connection_error": retries.connection_error,
    }


def round_significant(figure: float | None) -> float | None:
    """Round a number to three significant digits."""
    return None if figure is None else float(f"{figure:.3g}")


def preview_url(request: Request, origin: str, *, has_previews: bool) -> str | None:
    """URL of the newest preview; it changes with each preview. None while there can be none.

    ``has_previews``: whether this installation makes previews.
    """
    progress = request.progress
    if (
        not has_previews
        or not request.previews
        or request.state is not State.RUNNING
        or progress is None
    ):
        return None
    url = f"{origin}/v1/requests/{request.id}/preview"
    if request.preview_step:
        return f"{url}?attempt={request.attempt}&step={request.preview_step}"
    # A poll while weights are loading would expire before there is a preview.
    return url if progress.stage is Stage.DENOISING else None
