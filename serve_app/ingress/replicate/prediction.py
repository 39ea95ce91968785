"""A request as Replicate's clients see it: a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from serve_app.catalog.catalog import Catalog
from serve_app.domain.errors import ArtifactNotFound, OutcomeForgotten
from serve_app.domain.ports import Storage
from serve_app.domain.progress import Progress
from serve_app.domain.request import LogLine, Request, State
from serve_app.ingress.fal.output import rendered_output
from serve_app.ingress.replicate.model_ids import model_id
from serve_app.ingress.replicate.output import plain

PREFIX = "/replicate"
STARTING, PROCESSING = "starting", "processing"

STATUSES: Mapping[State, str] = {
    State.QUEUED: STARTING,
    State.RUNNING: PROCESSING,
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "canceled",
    State.EXPIRED: "failed",
}

BAR = 10
"""Characters of the line in the log by which Replicate's client reads progress."""


class Shelf(Protocol):
    """What a prediction is put together from."""

    @property
    def catalog(self) -> Catalog: ...

    @property
    def storage(self) -> Storage: ...


async def prediction(
    shelf: Shelf,
    request: Request,
    base: str,
    lines: Sequence[LogLine] = (),
    *,
    inline: bool = True,
) -> dict[str, Any]:
    """``base`` is where Replicate's paths begin, ``lines`` the log, if it is to be told.

    ``inline``: files may come inside it, as ``sync_mode`` in the input asks for.
    """
    url = f"{base}/v1/predictions/{request.id}"
    entry = shelf.catalog.find(request.endpoint)
    output, forgotten = await _output(shelf, request, base, inline=inline)
    failure = request.outcome.failure if request.outcome else None
    return {
        "id": request.id,
        "model": model_id(request.endpoint),
        "version": entry.endpoint.digest if entry else "",
        "input": dict(request.input),
        "output": output,
        "logs": _logs(lines, request.progress),
        "error": failure.message if failure else None,
        "status": STATUSES[request.state],
        "created_at": _iso(request.created_at),
        "started_at": _iso(request.started_at),
        "completed_at": _iso(request.finished_at),
        "metrics": _metrics(request),
        "data_removed": forgotten,
        "source": "api",
        "darkroom_endpoint": request.endpoint,
        "urls": {"get": url, "cancel": f"{url}/cancel", "stream": f"{url}/stream"},
    }


async def _output(shelf: Shelf, request: Request, base: str, *, inline: bool) -> tuple[Any, bool]:
    """And whether it is gone."""
    if request.state is not State.SUCCEEDED:
        return None, False
    try:
        origin = base.removesuffix(PREFIX)
        rendered = await rendered_output(request, shelf.storage, origin, inline=inline)
    except (OutcomeForgotten, ArtifactNotFound):
        return None, True
    return plain(rendered), False


def _metrics(request: Request) -> dict[str, float]:
    found: dict[str, float] = {}
    if request.outcome is not None:
        found["predict_time"] = request.outcome.usage.run_s
    if request.finished_at is not None:
        found["total_time"] = (request.finished_at - request.created_at).total_seconds()
    return found


def _logs(lines: Sequence[LogLine], progress: Progress | None) -> str:
    told = [line.message for line in lines]
    if told and progress is not None and progress.steps:
        done = min(1.0, progress.step / progress.steps)
        bar = "█" * int(done * BAR)
        told.append(f"{done:.0%}|{bar:<{BAR}}| {progress.step}/{progress.steps}")
    return "\n".join(told)


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
