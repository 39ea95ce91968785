"""Files over HTTP. Anyone who knows the key can read a public file; writing needs a ticket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from typing_extensions import TypedDict

from serve_app.domain.errors import ArtifactNotFound, Forbidden, InvalidInput
from serve_app.domain.ports import Storage
from serve_app.domain.sharing.fair_queue import work_from_now_on_for
from serve_app.ingress.http.auth import work_as_anonymous
from serve_app.ingress.http.body import UploadStream
from serve_app.ingress.http.content_disposition import content_disposition
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.file_readers import NO_FILE, require_readable
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import (
    ANY,
    Answer,
    DocumentedRoute,
    Operation,
    answer,
    in_header,
    in_path,
    in_query,
)
from serve_app.ingress.http.origin import etag_of
from serve_app.ingress.http.route_scopes import BY_CALL, NO_KEY
from serve_app.ingress.http.stored_file import begin
from serve_app.ingress.services.services import Services, services_of
from serve_app.storage import keys
from serve_app.storage.blocking import CHUNK_BYTES
from serve_app.storage.tickets import TicketGrant

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
"""Header ``Range``. Its numbers have at most 18 digits: no file is larger, and Python refuses to
read thousands of digits."""

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
"""Media types that browsers show and never execute. All others are sent as downloads."""


LINK_VALID_S = 600.0
"""Validity of a link to storage in seconds. It is shorter than the 15 minutes that a role's
credentials have left at least."""

LINK_CACHED = "private, max-age=300"
"""A client that uses a cached response still has five minutes to follow its link."""

PRIVATE_LINK_VALID_S = 60.0
"""The same of a private file: a revoked URL ends with the links to which it has led."""

UNREDIRECTED = ("replicate-python/",)
"""Beginnings of the header ``User-Agent`` of clients that follow no redirect: for ``read()`` of an
output, Replicate's Python client takes one for a failure."""

PUBLIC, UNCACHED = "public, max-age=31536000, immutable", "private, no-store"


class WrittenFile(TypedDict):
    key: str
    size: int


async def read(request: HttpRequest) -> Response:
    """``GET``/``HEAD``: the file, or one range of it.

    The content of a key never changes, so responses may be cached forever and the ETag is strong.
    If storage serves files itself, a ``GET`` is answered with a short-lived link to it, unless its
    client follows none. Private files are not cached: their readers may lose their right.
    """
    context_of(request).route = "files.read"
    work_as_anonymous(request)
    storage = services_of(request).files.storage
    key: str = request.path_params["key"]
    if not keys.valid(key):
        raise ArtifactNotFound(NO_FILE)
    link_s, link_cached = LINK_VALID_S, LINK_CACHED
    if keys.is_private(key):
        until = await require_readable(request, key)
        link_s, link_cached = _link_valid_s(services_of(request), until), UNCACHED
    headers = _headers(key)
    known = _matches(request.headers.get("if-none-match"), headers["etag"])
    reads = request.method == "GET" and not known
    if reads and _follows_redirects(request):
        link = _link(storage, key, headers, link_s)
        if link is not None:  # storage says what it does not have
            answer = {"location": link, "cache-control": link_cached}
            return Response(status_code=307, headers=answer)
    size, beginning = await storage.head(key, CHUNK_BYTES if reads else 0)
    if known:
        return Response(status_code=304, headers=headers)
    part = _range(request, headers["etag"], size)
    if part is None:
        headers = {"content-range": f"bytes */{size}"}
        return json_reply({"detail": "The range is outside the file."}, 416, headers)
    start, end, status = part
    headers["content-length"] = str(end - start)
    if status == 206:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    if end <= len(beginning):
        return Response(beginning[start:end], status, headers)
    chunks = await begin(storage.read(key, start, end))
    return StreamingResponse(chunks, status, headers)


async def write(request: HttpRequest) -> Response:
    """``PUT`` with a ticket. 200: the whole file is stored. On any error nothing is stored."""
    context_of(request).route = "files.write"
    grant = _grant(request)
    if request.headers.get("content-type", grant.media_type) != grant.media_type:
        raise InvalidInput(f"The ticket allows only the media type {grant.media_type}.")
    services = services_of(request)
    larger = f"The file exceeds the limit of {grant.max_bytes} bytes of its ticket."
    room = services.files.check_disk_for_artifact
    incoming = UploadStream(request, grant.max_bytes, larger, room)
    with services.metrics.uploading("replica"):
        size = await services.files.storage.put(grant.key, grant.media_type, incoming.chunks())
    services.metrics.count_uploaded_bytes("replica", size)
    body: WrittenFile = {"key": grant.key, "size": size}
    return json_reply(body)


async def delete(request: HttpRequest) -> Response:
    """``DELETE`` with the same ticket, for files uploaded by an attempt that lost its lease."""
    context_of(request).route = "files.delete"
    grant = _grant(request)
    await services_of(request).files.storage.delete([grant.key])
    return Response(status_code=204)


TAG = "files"
FILE_KEY = in_path("key", "The key in the file's URL; it may contain slashes.")

READ = Operation(
    "readFile",
    "Read a file",
    {
        200: answer("The file.", Binary, ANY),
        206: answer("A range of the file.", Binary, ANY),
        304: Answer("The file is the same; the content of a key never changes."),
        307: Answer("The URL at which storage itself serves the file."),
    },
    errors=(401, 403, 404, 416),
    parameters=(
        FILE_KEY,
        in_header("Range", "One range of bytes."),
        in_query("expires", "Of a signed URL: when it expires, as a Unix time stamp."),
        in_query("id", "Of a signed URL."),
        in_query("signature", "Of a signed URL. Reads a private file without a key."),
    ),
    tag=TAG,
    key=False,
)
READ_HEADERS = replace(READ, name="headFile", summary="Read a file's headers")
WRITE = Operation(
    "writeFile",
    "Write a file. For replicas: needs a ticket in the query",
    {200: answer("The file is stored.", WrittenFile)},
    errors=(403, 413, 422, 507),
    parameters=(FILE_KEY,),
    content={ANY: Binary},
    tag=TAG,
    key=False,
)
DELETE = Operation(
    "deleteFile",
    "Delete a file. For replicas: needs a ticket in the query",
    {204: Answer("The file is deleted.")},
    errors=(403,),
    parameters=(FILE_KEY,),
    tag=TAG,
    key=False,
)

ROUTES = [
    # Public files need no key: the URL is the credential.
    DocumentedRoute("/files/{key:path}", read, {"GET": READ, "HEAD": READ_HEADERS}, BY_CALL),
    # Replicas write and delete, with a ticket.
    DocumentedRoute("/files/{key:path}", write, {"PUT": WRITE}, NO_KEY),
    DocumentedRoute("/files/{key:path}", delete, {"DELETE": DELETE}, NO_KEY),
]


def _grant(request: HttpRequest) -> TicketGrant:
    tickets = services_of(request).files.tickets
    key: str = request.path_params["key"]
    if tickets is None or not keys.valid(key):
        raise Forbidden("Files cannot be written here.")
    grant = tickets.check(key, request.query_params)
    # A ticket names no tenant. Each file of a replica takes its own turn.
    work_from_now_on_for(f"file {key}")
    return grant


def _headers(key: str) -> dict[str, str]:
    media_type = keys.media_type_of(key)
    disposition = "inline" if media_type in SAFE_INLINE else "attachment"
    return {
        "content-type": media_type,
        "content-disposition": content_disposition(disposition, keys.file_name(key)),
        "etag": etag_of(key),
        "accept-ranges": "bytes",
        "cache-control": UNCACHED if keys.is_private(key) else PUBLIC,
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "cross-origin",
    }


def _link(storage: Storage, key: str, headers: Mapping[str, str], valid_s: float) -> str | None:
    """URL at which storage itself serves the file; None if Darkroom has to serve it."""
    return storage.link(key, headers["content-type"], headers["content-disposition"], valid_s)


def _follows_redirects(request: HttpRequest) -> bool:
    return not request.headers.get("user-agent", "").startswith(UNREDIRECTED)


def _link_valid_s(services: Services, until: int | None) -> float:
    """Validity of a link to a private file: not beyond that of the signed URL."""
    if until is None:
        return PRIVATE_LINK_VALID_S
    return max(1.0, min(PRIVATE_LINK_VALID_S, until - services.clock.now().timestamp()))


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    etags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in etags or etag in etags


def _range(request: HttpRequest, etag: str, size: int) -> tuple[int, int, int] | None:
    """Start, end (exclusive) and HTTP status; None when the range cannot be satisfied.

    Several ranges, and units other than bytes, are answered with the whole file, as HTTP allows.
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
    if first == "":  # the last N bytes
        length = min(int(last), size)
        return (size - length, size, 206) if length else None
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return whole  # malformed by RFC 9110, so it is ignored
    return (start, end, 206) if start < size else None
