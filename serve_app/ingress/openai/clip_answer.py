"""A request for a clip, as OpenAI's clients see it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.domain.artifact import Artifact
from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, State
from serve_app.ingress.fal.output import NO_OUTCOME
from serve_app.ingress.openai.clip_wish import told_length, told_size
from serve_app.ingress.openai.refusal import failure_body

STATUSES: Mapping[State, str] = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELLED: "failed",
    State.EXPIRED: "failed",
}

DENOISED_PERCENT = 90
"""Of the work, the share of denoising: what is decoded and encoded is the rest."""


def makes_clips(entry: CatalogEntry) -> bool:
    return entry.endpoint.category.endswith("to-video")


def clip_endpoints(catalog: Catalog) -> list[str]:
    return [entry.endpoint.id for entry in catalog if makes_clips(entry)]


def clip(request: Request, names: Mapping[str, str]) -> dict[str, Any]:
    found = next((each for each in artifacts(request) if is_clip(each)), None)
    size = f"{found.width}x{found.height}" if found and found.width else told_size(request.input)
    body: dict[str, Any] = {
        "id": request.id,
        "object": "video",
        "model": request.endpoint,
        "status": STATUSES[request.state],
        "progress": progress(request),
        "created_at": _seconds(request.created_at),
        "completed_at": _seconds(request.finished_at) if request.state.final else None,
        "expires_at": None,
        "prompt": request.input.get("prompt"),
        "seconds": told_length(request.input),
        "size": size,
        "remixed_from_video_id": None,
        "error": None,
    }
    if request.state.final and request.state is not State.SUCCEEDED:
        failure = request.outcome.failure if request.outcome else None
        body["error"] = failure_body(failure or NO_OUTCOME, names)["error"]
    return body


def progress(request: Request) -> int:
    """Percent. Denoising is nearly all of it; before it is 0."""
    if request.state is State.SUCCEEDED:
        return 100
    now = request.progress
    if request.state is not State.RUNNING or now is None:
        return 0
    if now.stage is Stage.DENOISING and now.steps:
        return round(DENOISED_PERCENT * min(1.0, now.step / now.steps))
    stages = tuple(Stage)
    return DENOISED_PERCENT if stages.index(now.stage) > stages.index(Stage.DENOISING) else 0


def artifacts(request: Request) -> tuple[Artifact, ...]:
    return request.outcome.artifacts if request.outcome else ()


def is_clip(artifact: Artifact) -> bool:
    return artifact.media_type.startswith("video/")


def _seconds(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None
