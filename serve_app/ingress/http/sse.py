"""Server-sent events: their format, and the response that streams them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable
from typing import Any

from starlette.responses import StreamingResponse

MEDIA_TYPE = "text/event-stream"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Headers that keep caches and proxies from holding events back."""

NOTHING_NEW = b": nothing new\n\n"
"""Comment that keeps a silent connection open. Clients ignore it."""


def event(data: str | bytes, **fields: str | int) -> bytes:
    """Format one event. ``fields`` (``event``, ``id``) precede the data, in the order given."""
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    head = "".join(f"{name}: {value}\n" for name, value in fields.items()).encode()
    return head + b"".join(b"data: %b\n" % line for line in raw.split(b"\n")) + b"\n"


def json_event(body: Any, **fields: str | int) -> bytes:
    """Format one event whose data is ``body`` as compact JSON."""
    return event(json.dumps(body, separators=(",", ":")), **fields)


def stream_reply(
    events: AsyncIterable[bytes], *, cache_control: str = HEADERS["cache-control"]
) -> StreamingResponse:
    """Response that streams ``events`` until they end or the client disconnects."""
    headers = {**HEADERS, "cache-control": cache_control}
    return StreamingResponse(events, headers=headers, media_type=MEDIA_TYPE)
