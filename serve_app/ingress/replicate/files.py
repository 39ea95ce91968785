"""Files for inputs, which Replicate's client uploads before a prediction and can list."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, NotRequired, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import InvalidInput
from serve_app.domain.upload import KeptFile
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import Form, is_form, parse_body, read_form
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary, Time
from serve_app.ingress.http.openapi import Answer, Operation, answer, in_path
from serve_app.ingress.http.origin import etag_of, origin_of
from serve_app.ingress.replicate.errors import ERRORS, TAG
from serve_app.ingress.replicate.prediction import CURSOR, ReplicatePage
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.files import NewUpload
from serve_app.ingress.services.services import services_of
from serve_app.storage.keys import file_name

FIELD, METADATA = "content", "metadata"
MAX_METADATA_BYTES = 16 * 1024
PAGE = 100


class Checksums(TypedDict, total=False):
    sha256: str


class FileUrls(TypedDict):
    get: str


class ReplicateFile(TypedDict):
    """Uploaded file."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: Checksums
    metadata: dict[str, Any]
    created_at: Time
    expires_at: Time | None
    urls: FileUrls


class ReplicateFilePage(ReplicatePage):
    results: list[ReplicateFile]


class FileForm(TypedDict):
    content: Binary
    metadata: NotRequired[dict[str, Any]]


async def create(request: HttpRequest) -> Response:
    """Store a file; answer 201. It is a normal upload: the client puts its URL into the input of a
    prediction."""
    caller = await authenticate(request)
    services = services_of(request)
    origin_of(request)  # may be refused, so it is checked before anything is stored
    if not is_form(request):
        raise InvalidInput("The call is not a form. Send the file as multipart/form-data.")
    await services.files.check_disk_for_upload()
    # The metadata may be a second file.
    form = await read_form(request, services.config.limits.max_body_bytes, most_files=2)
    files = form.files.get(FIELD, [])
    if not files:
        raise InvalidInput.of_field(FIELD, "Field required", "missing")
    if len(files) > 1:
        raise InvalidInput.of_field(FIELD, "Only one file is taken", "too_long")
    (file,) = files
    metadata = await _metadata(form)
    new = NewUpload(caller.tenant, file.media_type, file.name, metadata=metadata)
    upload = await services.files.uploads.take_whole(new, file.content)
    digest = (await in_cpu_thread(hashlib.sha256, file.content)).hexdigest()
    kept = await services.files.uploads.get_file(caller, upload.key)
    body = _file(request, caller.tenant, kept)
    # The same body as later, plus what is known only now.
    body["name"], body["checksums"] = file.name, {"sha256": digest}
    return json_reply(body, 201)


async def _metadata(form: Form) -> dict[str, Any]:
    """What the client says of the file. Replicate's JavaScript client sends it as a second file,
    and the Python one as a text."""
    sent = [file.content for file in form.files.get(METADATA, [])]
    raw = sent[0] if sent else form.texts.get(METADATA, "{}").encode()
    if len(raw) > MAX_METADATA_BYTES:
        raise InvalidInput.of_field(METADATA, f"It may have {MAX_METADATA_BYTES} bytes")
    metadata = await parse_body(raw)
    if not isinstance(metadata, dict):
        raise InvalidInput.of_field(METADATA, "Input should be an object")
    return cast("dict[str, Any]", metadata)


async def show(request: HttpRequest) -> Response:
    caller = await authenticate(request)
    kept = await services_of(request).files.uploads.get_file(caller, request.path_params["file_id"])
    return json_reply(_file(request, caller.tenant, kept))


async def list_files(request: HttpRequest) -> Response:
    """List the tenant's uploads of all protocols, the latest first."""
    caller = await authenticate(request)
    origin = origin_of(request)
    before = _before(request)
    page = await services_of(request).files.uploads.page(caller, before, PAGE + 1)
    more = None
    if len(page) > PAGE:
        last = page[PAGE - 1]
        at = last.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        more = f"{origin}/replicate/v1/files?cursor={at},{last.key}"
    results = [_file(request, caller.tenant, file) for file in page[:PAGE]]
    body: ReplicateFilePage = {"previous": None, "next": more, "results": results}
    return json_reply(body)


async def delete(request: HttpRequest) -> Response:
    """Delete a file; answer 204. If storage is not available, the file is deleted later."""
    caller = await authenticate(request)
    await services_of(request).files.uploads.delete(
        caller, request.path_params["file_id"], actor_of(request)
    )
    return Response(status_code=204)


ONE = in_path("file_id", "Id of the file; it contains slashes.")

CREATE = Operation(
    "replicateCreateFile",
    "Upload a file for an input",
    {201: answer("The file.", ReplicateFile)},
    errors=(413, 422, 429, 503, 507),
    content={"multipart/form-data": FileForm},
    tag=TAG,
    error_format=ERRORS,
)
LIST = Operation(
    "replicateListFiles",
    "List the tenant's uploads, the latest first",
    {200: answer("A page.", ReplicateFilePage)},
    errors=(422,),
    parameters=(CURSOR,),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = Operation(
    "replicateGetFile",
    "Show an upload",
    {200: answer("The file.", ReplicateFile)},
    errors=(404,),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
DELETE = Operation(
    "replicateDeleteFile",
    "Delete an upload that no running batch reads",
    {204: Answer("The file is deleted.")},
    errors=(400, 404),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)


def _file(request: HttpRequest, tenant: str, kept: KeptFile) -> ReplicateFile:
    access = services_of(request).files.access
    return {
        "id": kept.key,
        "name": file_name(kept.key),
        "content_type": kept.media_type,
        "size": kept.size,
        "etag": etag_of(kept.key).strip('"'),
        "checksums": {},
        "metadata": dict(kept.metadata),
        "created_at": kept.created_at.isoformat(),
        "expires_at": None if kept.expires_at is None else kept.expires_at.isoformat(),
        "urls": {"get": access.url(origin_of(request), kept.key, tenant)},
    }


def _before(request: HttpRequest) -> tuple[datetime, str] | None:
    cursor = query.text(request, "cursor")
    if cursor is None:
        return None
    time, _, key = cursor.partition(",")
    try:
        at = datetime.fromisoformat(time)
        if at.tzinfo is not None:
            return at, key
    except ValueError:
        pass
    raise query.invalid("cursor", "should be the one of the previous page", cursor)
