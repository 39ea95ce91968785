"""What a request made, as blocks that an assistant can look at."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ResourceLink,
    TextContent,
)

from serve_app.domain.artifact import Artifact
from serve_app.domain.outcome import Failure
from serve_app.domain.ports import Storage
from serve_app.domain.request import Request
from serve_app.ingress.core import Core
from serve_app.ingress.fal.output import NO_OUTCOME, rendered_output
from serve_app.ingress.origin import file_url

MOST_INLINE_BYTES = 1_000_000
"""Of one result's files together. Clients put a result into a conversation, and refuse larger ones;
what does not fit is linked."""

SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
"""Pictures that clients show."""


def told(sentence: str, facts: Mapping[str, Any], *, error: bool = False) -> CallToolResult:
    """A sentence for the assistant, and the same as data."""
    return CallToolResult(
        content=[TextContent(text=sentence)], structured_content=dict(facts), is_error=error
    )


def standing(request: Request, how: str) -> CallToolResult:
    """Of a request that has not ended; ``how`` it stands, in words."""
    sentence = f"Request {request.id} has not ended: {how}. Call wait with its request_id."
    facts = {"request_id": request.id, "state": request.state.value, "standing": how}
    return told(sentence, facts)


async def ended(core: Core, request: Request, origin: str) -> CallToolResult:
    """Of one that has: its files, or why there are none. ``OutcomeForgotten``."""
    outcome = request.outcome
    if outcome is None or outcome.failure is not None:
        return failed(request, outcome.failure if outcome and outcome.failure else NO_OUTCOME)
    output = await rendered_output(request, core.storage, origin, inline=False)
    facts = {"request_id": request.id, "state": request.state.value, "output": output}
    blocks: list[ContentBlock] = [TextContent(text=json.dumps(facts, ensure_ascii=False))]
    left = MOST_INLINE_BYTES
    for artifact in outcome.artifacts:
        if artifact.size <= left and _shown(artifact):
            left -= artifact.size
            blocks.append(await _inline(core.storage, artifact))
        blocks.append(_link(artifact, origin))
    return CallToolResult(content=blocks, structured_content=facts)


def failed(request: Request, failure: Failure) -> CallToolResult:
    where = f" (input field {failure.field})" if failure.field else ""
    facts = {
        "request_id": request.id,
        "state": request.state.value,
        "error": {"code": failure.code, "message": failure.message},
    }
    sentence = f"Request {request.id} {request.state.value}: {failure.message}{where}"
    return told(sentence, facts, error=True)


def _shown(artifact: Artifact) -> bool:
    return artifact.media_type in SHOWN or artifact.media_type.startswith("audio/")


async def _inline(storage: Storage, artifact: Artifact) -> ImageContent | AudioContent:
    content = b"".join([chunk async for chunk in storage.read(artifact.key, 0, artifact.size)])
    # Base64 of a picture takes milliseconds, which all other calls would wait for.
    data = (await asyncio.to_thread(base64.b64encode, content)).decode("ascii")
    if artifact.media_type in SHOWN:
        return ImageContent(data=data, mime_type=artifact.media_type)
    return AudioContent(data=data, mime_type=artifact.media_type)


def _link(artifact: Artifact, origin: str) -> ResourceLink:
    return ResourceLink(
        uri=file_url(origin, artifact.key),
        name=artifact.key.rpartition("/")[2],
        mime_type=artifact.media_type,
        size=artifact.size,
    )
