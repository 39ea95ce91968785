"""What tells a repeated submit from another one, and the same wish from another."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from serve_app.domain.endpoint import Endpoint

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False).encode


async def body_digest(endpoint_id: str, body: Any, webhook_url: str | None = None) -> bytes:
    """SHA-256 of the endpoint, the webhook and the input as it was sent: not of the defaults that
    were filled in, which a newer catalogue may change. The order of fields and white space count
    for nothing.
    """
    # In a thread, because a body may be megabytes of data URIs.
    value = {"endpoint": endpoint_id, "input": body}
    if webhook_url is not None:
        value["webhook"] = webhook_url
    return await asyncio.to_thread(_digest, value)


async def reuse_digest(endpoint: Endpoint, input: Mapping[str, Any], *, alone: bool) -> bytes:
    """SHA-256 of everything that decides the outcome; empty when that cannot be told.

    It cannot be without a seed, nor with a URL, behind which there may be something else by now.
    """
    seeded = input.get("seed") is not None or input.get("seeds")
    if not seeded or _names_url(input):
        return b""
    # Who asks to run alone wants the very bytes of a run alone.
    value = {"endpoint": endpoint.digest, "input": input, "alone": alone}
    return await asyncio.to_thread(_digest, value)


def _names_url(value: Any) -> bool:
    if isinstance(value, str):
        return value[:8].lower().startswith(("http://", "https://"))
    if isinstance(value, Mapping):
        return any(map(_names_url, cast("Mapping[str, Any]", value).values()))
    return isinstance(value, list) and any(map(_names_url, cast("list[Any]", value)))


def _digest(value: Any) -> bytes:
    return hashlib.sha256(_canonical(value).encode("ascii")).digest()
