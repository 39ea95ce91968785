"""``POST /v1/requests/zip``: the files of many requests as one archive, in flat memory."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from serve_app.domain.artifact import Artifact, is_elsewhere
from serve_app.domain.errors import ArtifactNotFound, InvalidInput, NotFound
from serve_app.domain.ports import Storage
from serve_app.domain.request import Request
from serve_app.ingress.api.gallery.items import unique_ids
from serve_app.ingress.http.archive import ZipStream
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import READ

MAX_REQUESTS = 500
MAX_ZIP_BYTES = 8 * 2**30
MAX_BODY_BYTES = 1 << 16
MISSING = "missing.txt"
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")


class RequestsToZip(BaseModel):
    """Requests whose files to download."""

    model_config = ConfigDict(extra="forbid")

    request_ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_REQUESTS)]


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """File of an archive."""

    name: str
    artifact: Artifact
    request: Request


async def download(request: HttpRequest) -> Response:
    """Answer with the output files of requests of the tenant, uncompressed and in the order of
    their submit. Files that are gone are named in ``missing.txt``, and those in buckets of their
    clients by URL."""
    context_of(request).route = "v1.requests.zip"
    caller = await authenticate(request)
    services = services_of(request)
    body = await read_model(request, RequestsToZip, MAX_BODY_BYTES)
    ids = unique_ids(body.request_ids)
    jobs = await services.queue.gallery.several(caller.tenant, ids)
    for record in jobs:
        caller.require_endpoint(record.endpoint)
    every = sorted((entry for source in jobs for entry in _entries(source)), key=_name)
    entries = [entry for entry in every if not is_elsewhere(entry.artifact.key)]
    if not entries:
        raise NotFound("None of these requests has files that are stored here.")
    size = sum(entry.artifact.size for entry in entries)
    if size > MAX_ZIP_BYTES:
        message = f"their files have {size} bytes; at most {MAX_ZIP_BYTES} go into one archive"
        raise InvalidInput.of_field("request_ids", message)
    unknown = sorted(set(ids) - {source.id for source in jobs})
    elsewhere = [entry.artifact.key for entry in every if is_elsewhere(entry.artifact.key)]
    missing = [*(f"request {request_id}" for request_id in unknown), *elsewhere]
    name = f"darkroom-{services.clock.now():%Y-%m-%d}.zip"
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "private, no-store",
        "x-content-type-options": "nosniff",
    }
    archive = write_archive(services.files.storage, entries, missing)
    return StreamingResponse(archive, 200, headers, media_type="application/zip")


DOWNLOAD = Operation(
    "downloadZip",
    "Download the output files of many requests as one zip archive",
    {
        200: answer(
            "The archive. `missing.txt` in it names what is gone, and URLs of files that are in "
            "buckets of their clients.",
            Binary,
            "application/zip",
        )
    },
    errors=(404, 413, 422),
    body=RequestsToZip,
)

ROUTES = [DocumentedRoute("/v1/requests/zip", download, {"POST": DOWNLOAD}, READ)]


async def write_archive(
    storage: Storage, entries: Sequence[ZipEntry], missing: Sequence[str]
) -> AsyncGenerator[bytes]:
    """Write an archive of files, chunk by chunk. ``missing``: what else is not in it."""
    archive, gone = ZipStream(), [*missing]
    for entry in entries:
        artifact, at = entry.artifact, entry.request.created_at
        stored = archive.add_file(storage, artifact.key, artifact.size, entry.name, at)
        try:
            async with aclosing(stored) as chunks:  # also if the client leaves
                async for chunk in chunks:
                    yield chunk
        except ArtifactNotFound:
            gone.append(entry.name)
    yield archive.end({MISSING: "".join(f"{name}\n" for name in gone)} if gone else {})


def _entries(request: Request) -> Iterator[ZipEntry]:
    files = request.outcome.artifacts if request.outcome else ()
    at = request.created_at.astimezone(UTC)
    endpoint = _UNSAFE.sub("-", request.endpoint).strip("-.")
    for number, artifact in enumerate(files, start=1):
        extension = artifact.key.rpartition(".")[2]
        name = f"{at:%Y-%m-%d_%H%M%S}_{request.id}_{number:03}_{endpoint}.{extension}"
        yield ZipEntry(name, artifact, request)


def _name(entry: ZipEntry) -> str:
    return entry.name
