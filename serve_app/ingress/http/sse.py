"""Server-sent events: their format, and the response that streams them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable
from typing import Any

from starlette.responses import StreamingResponse

MEDIA_TYPE = "text/event-stream"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Headers that keep caches and proxies from holding events back."""

NOTHING_NEW = b": nothing new\n\n"
"""Comment that keeps a silent connection open. Clients ignore it."""


_LINE_ENDS = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
"""What ends a line for clients: by the standard the first three of these, and for Replicate's
Python client all that ``str.splitlines`` knows. A client drops what follows without ``data:``."""


def event(data: str | bytes, **fields: str | int) -> bytes:
    """Format one event, whose data is JSON or has no other ends of lines than line feeds.
    ``fields`` (``event``, ``id``) precede the data, in the order given."""
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    head = "".join(f"{name}: {value}\n" for name, value in fields.items()).encode()
    return head + b"".join(b"data: %b\n" % line for line in raw.split(b"\n")) + b"\n"


def text_event(text: str, **fields: str | int) -> bytes:
    """Format one event whose data is a text of any characters. Its lines end with a line feed."""
    return event("\n".join(_LINE_ENDS.split(text)), **fields)


def json_event(body: Any, **fields: str | int) -> bytes:
    """Format one event whose data is ``body`` as compact JSON."""
    return event(json.dumps(body, separators=(",", ":")), **fields)


def stream_reply(
    events: AsyncIterable[bytes], *, cache_control: str = HEADERS["cache-control"]
) -> StreamingResponse:
    """Response that streams ``events`` until they end or the client disconnects."""
    headers = {**HEADERS, "cache-control": cache_control}
    return StreamingResponse(events, headers=headers, media_type=MEDIA_TYPE)
