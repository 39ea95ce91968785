"""Tool results as content blocks that an assistant can read, and reports while it waits."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ResourceLink,
    TextContent,
)

from serve_app.domain.artifact import Artifact, is_elsewhere
from serve_app.domain.outcome import Failure
from serve_app.domain.ports import Queue, Storage
from serve_app.domain.progress import Stage
from serve_app.domain.request import Request, State
from serve_app.domain.sharing.admission import end_admission
from serve_app.ingress.services.files import Files
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.rendering import base64_of, final_outcome, rendered_output

MAX_INLINE_BYTES = 1_000_000
"""Most bytes of files inside one result, together. Clients put a result into a conversation and
refuse larger ones. Files that do not fit are linked only."""

SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
"""Image types that clients show."""


def text_result(sentence: str, facts: Mapping[str, Any], *, error: bool = False) -> CallToolResult:
    """Result with a sentence for the assistant, and the same facts as data."""
    return CallToolResult(
        content=[TextContent(text=sentence)], structured_content=dict(facts), is_error=error
    )


def interim_result(request: Request, how: str) -> CallToolResult:
    """Result for a request that has not ended; ``how``: its state in words."""
    sentence = f"Request {request.id} has not ended: {how}. Call wait with its request_id."
    facts = {"request_id": request.id, "state": request.state.value, "standing": how}
    return text_result(sentence, facts)


async def final_result(files: Files, request: Request, origin: str) -> CallToolResult:
    """Result for an ended request: its files, or its failure. ``OutcomeForgotten``."""
    outcome = final_outcome(request)
    if outcome.failure is not None:
        return failure_result(request, outcome.failure)
    output = await rendered_output(request, files, origin, inline=False)
    facts = {"request_id": request.id, "state": request.state.value, "output": output}
    blocks: list[ContentBlock] = [TextContent(text=json.dumps(facts, ensure_ascii=False))]
    left = MAX_INLINE_BYTES
    for artifact in outcome.artifacts:
        if artifact.size <= left and _may_show(artifact):
            left -= artifact.size
            blocks.append(await _inline(files.storage, artifact))
        blocks.append(_link(artifact, files.access.url(origin, artifact.key, request.tenant)))
    return CallToolResult(content=blocks, structured_content=facts)


def failure_result(request: Request, failure: Failure) -> CallToolResult:
    where = f" (input field {failure.field})" if failure.field else ""
    facts = {
        "request_id": request.id,
        "state": request.state.value,
        "error": {"code": failure.code, "message": failure.message},
    }
    sentence = f"Request {request.id} {request.state.value}: {failure.message}{where}"
    return text_result(sentence, facts, error=True)


def _may_show(artifact: Artifact) -> bool:
    shown = artifact.media_type in SHOWN or artifact.media_type.startswith("audio/")
    return shown and not is_elsewhere(artifact.key)


async def _inline(storage: Storage, artifact: Artifact) -> ImageContent | AudioContent:
    data = await base64_of(storage, artifact.key, artifact.size)
    if artifact.media_type in SHOWN:
        return ImageContent(data=data, mime_type=artifact.media_type)
    return AudioContent(data=data, mime_type=artifact.media_type)


def _link(artifact: Artifact, url: str) -> ResourceLink:
    return ResourceLink(
        uri=url,
        name=artifact.key.rpartition("/")[2],
        mime_type=artifact.media_type,
        size=artifact.size,
    )


# Waiting for the end of a request, with progress reports to the caller.

REPORT_INTERVAL_S = 5.0
"""Longest time in seconds between two progress reports."""

STAGES = tuple(Stage)
TOTAL = len(STAGES) + 1.0
MIN_INCREASE = 0.001

ReportProgress = Callable[[float, float, str], Awaitable[None]]
"""Callback that takes the progress, its total, and a text."""


async def wait_until_end(
    services: Services, request: Request, wait_s: float, report_progress: ReportProgress
) -> Request:
    """Return the request at its end, or after ``wait_s`` in the state that it has then."""
    ends = services.clock.monotonic() + wait_s
    last = 0.0
    end_admission()
    while not request.state.final and (left := ends - services.clock.monotonic()) > 0:
        # The reported progress must always grow, although a retry begins from the start.
        last = max(share(request), last + MIN_INCREASE)
        await report_progress(last, TOTAL, await describe_state(services.queue, request))
        wait = min(left, REPORT_INTERVAL_S)
        request = await services.queue.wait_for_change(
            request.tenant, request.id, wait, since=request
        )
    return request


def share(request: Request) -> float:
    """Progress of a request, out of ``TOTAL``. All stages of a generation count the same."""
    progress = request.progress
    if request.state is State.QUEUED or progress is None:
        return 0.0
    done = min(1.0, progress.step / progress.steps) if progress.steps else 0.0
    return 1.0 + STAGES.index(progress.stage) + done


async def describe_state(queue: Queue, request: Request) -> str:
    """State of a request in words."""
    if request.state is State.QUEUED:
        waiting = await queue.waiting(request)
        known = [waiting.detail] if waiting.detail else []
        if waiting.share is not None:
            known.append(f"{waiting.share:.0%} of {waiting.stage}")
        detail = f" ({', '.join(known)})" if known else ""
        return f"queued, {waiting.position} before it, {waiting.reason.value}{detail}"
    progress = request.progress
    if progress is None:
        return request.state.value
    words = progress.stage.value.replace("_", " ")
    return f"{words} {progress.amount}".rstrip()
