"""Waiting for a request while its caller is told how far it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, State
from serve_app.ingress.core import Core

TOLD_S = 5.0
"""A caller hears at least this often of a request that it waits for."""

STAGES = tuple(Stage)
TOTAL = len(STAGES) + 1.0
NUDGE = 0.001

Tell = Callable[[float, float, str], Awaitable[None]]
"""Takes progress, its total, and words."""


async def until_ended(core: Core, request: Request, wait_s: float, tell: Tell) -> Request:
    """The request at its end, or after ``wait_s`` as it is then."""
    ends = core.clock.monotonic() + wait_s
    last = 0.0
    while not request.state.final and (left := ends - core.clock.monotonic()) > 0:
        # What is told has to grow, also when nothing does: a retry begins from the start.
        last = max(share(request), last + NUDGE)
        await tell(last, TOTAL, await standing(core, request))
        wait = min(left, TOLD_S)
        request = await core.queue.changed(request.tenant, request.id, wait, since=request)
    return request


def share(request: Request) -> float:
    """How far it is, of ``TOTAL``: stages of a generation count alike."""
    progress = request.progress
    if request.state is State.QUEUED or progress is None:
        return 0.0
    done = min(1.0, progress.step / progress.steps) if progress.steps else 0.0
    return 1.0 + STAGES.index(progress.stage) + done


async def standing(core: Core, request: Request) -> str:
    """How it stands, in words."""
    if request.state is State.QUEUED:
        waiting = await core.queue.waiting(request)
        known = [waiting.detail] if waiting.detail else []
        if waiting.share is not None:
            known.append(f"{waiting.share:.0%} of {waiting.stage}")
        detail = f" ({', '.join(known)})" if known else ""
        return f"queued, {waiting.position} before it, {waiting.reason.value}{detail}"
    progress = request.progress
    if progress is None:
        return request.state.value
    words = progress.stage.value.replace("_", " ")
    return f"{words} {progress.step}/{progress.steps}" if progress.steps else words
