"""Artifacts over HTTP: anyone who knows the key may read, a ticket is needed to write."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from serve_app.domain.errors import ArtifactNotFound, Forbidden, InvalidInput, TooLarge
from serve_app.domain.ports import Storage
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.storage import keys
from serve_app.storage.tickets import Grant

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
"""No file has more bytes than 18 digits can say, and Python reads no number of thousands."""

SAFE_INLINE = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/gif",
        "video/mp4",
        "video/webm",
        "audio/wav",
        "audio/mpeg",
        "audio/flac",
        "audio/ogg",
    }
)
"""Shown by browsers and run by none. Everything else is offered as a download."""


LINK_VALID_S = 600.0
"""Of a link to storage. Less than the 15 minutes that a role's credentials have left at least."""

LINK_CACHED = "private, max-age=300"
"""A client that goes by an answer it kept has five minutes left to follow it."""


async def read(request: HttpRequest) -> Response:
    """``GET``/``HEAD``: the file or one range of it.

    A key's content never changes, so it may be cached for ever, and its ETag is strong. Where
    clients are to be sent to storage, a ``GET`` is answered with a short-lived link to it.
    """
    exchange_of(request).route = "files.read"
    storage = core_of(request).storage
    key: str = request.path_params["key"]
    if not keys.valid(key):
        raise ArtifactNotFound("There is no such file.")
    size = await storage.size(key)
    headers = _headers(key)
    if _matches(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=304, headers=headers)
    if request.method == "GET" and (link := _link(storage, key, headers)) is not None:
        return Response(status_code=307, headers={"location": link, "cache-control": LINK_CACHED})
    part = _range(request, headers["etag"], size)
    if part is None:
        told = {"content-range": f"bytes */{size}"}
        return json_reply({"detail": "The range lies outside of the file."}, 416, told)
    start, end, status = part
    headers["content-length"] = str(end - start)
    if status == 206:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(storage.read(key, start, end), status, headers)


async def write(request: HttpRequest) -> Response:
    """``PUT`` with a ticket: 200 when the whole is stored, and nothing otherwise."""
    exchange_of(request).route = "files.write"
    grant = _grant(request)
    if request.headers.get("content-type", grant.media_type) != grant.media_type:
        raise InvalidInput(f"The ticket is for {grant.media_type}.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > grant.max_bytes:
        raise _too_large(grant)
    size = await core_of(request).storage.put(grant.key, grant.media_type, _capped(request, grant))
    return json_reply({"key": grant.key, "size": size})


async def delete(request: HttpRequest) -> Response:
    """``DELETE`` with the same ticket: for what an attempt uploaded before it lost its lease."""
    exchange_of(request).route = "files.delete"
    grant = _grant(request)
    await core_of(request).storage.delete([grant.key])
    return Response(status_code=204)


ROUTES = [
    Route("/files/{key:path}", read, methods=["GET", "HEAD"]),
    Route("/files/{key:path}", write, methods=["PUT"]),
    Route("/files/{key:path}", delete, methods=["DELETE"]),
]


def _grant(request: HttpRequest) -> Grant:
    tickets = core_of(request).tickets
    key: str = request.path_params["key"]
    if tickets is None or not keys.valid(key):
        raise Forbidden("Nothing can be written here.")
    return tickets.check(key, request.query_params)


async def _capped(request: HttpRequest, grant: Grant) -> AsyncIterator[bytes]:
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > grant.max_bytes:
            raise _too_large(grant)
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return


def _too_large(grant: Grant) -> TooLarge:
    return TooLarge(f"The ticket is for at most {grant.max_bytes} bytes.")


def _headers(key: str) -> dict[str, str]:
    media_type = keys.media_type_of(key)
    name = key.rpartition("/")[2]
    disposition = "inline" if media_type in SAFE_INLINE else "attachment"
    return {
        "content-type": media_type,
        "content-disposition": f"{disposition}; filename*=UTF-8''{quote(name)}",
        "etag": etag_of(key),
        "accept-ranges": "bytes",
        "cache-control": "public, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "cross-origin",
    }


def etag_of(key: str) -> str:
    """With its quotes. The content under a key never changes, so the key's own digest will do."""
    return f'"{hashlib.sha256(key.encode()).hexdigest()[:32]}"'


def _link(storage: Storage, key: str, headers: Mapping[str, str]) -> str | None:
    """Where storage itself serves the file, if it is to."""
    return storage.link(key, headers["content-type"], headers["content-disposition"], LINK_VALID_S)


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    given = [each.strip().removeprefix("W/") for each in header.split(",")]
    return "*" in given or etag in given


def _range(request: HttpRequest, etag: str, size: int) -> tuple[int, int, int] | None:
    """Start, end (exclusive) and HTTP status; None when the range cannot be satisfied.

    Several ranges, or units that are not bytes, are answered with the whole, as HTTP allows.
    """
    whole = (0, size, 200)
    header = request.headers.get("range")
    condition = request.headers.get("if-range")
    if header is None or (condition is not None and condition != etag):
        return whole
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return whole
    first, last = match.groups()
    if first == "":  # the last so many bytes
        length = min(int(last), size)
        return (size - length, size, 206) if length else None
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return whole  # malformed by RFC 9110, so it is ignored
    return (start, end, 206) if start < size else None
