"""Calls under ``files``: inputs and outputs of batches."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Literal, NotRequired

from starlette.datastructures import UploadFile
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from typing_extensions import TypedDict

from serve_app.domain.batches.batch import BatchFile
from serve_app.domain.errors import InvalidInput, NotFound, Unavailable
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import is_form, spooled_form
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import Operation, answer, in_path, in_query
from serve_app.ingress.http.stored_file import begin
from serve_app.ingress.openai.batches.objects import (
    OpenAiDeletedFile,
    OpenAiFile,
    OpenAiFilePage,
    file_object,
    file_page,
)
from serve_app.ingress.openai.errors import ERRORS, TAG
from serve_app.ingress.services.file_access import (
    MAX_URL_BYTES,
    PRIVATE_URL,
    FileAccessControl,
)
from serve_app.ingress.services.files import NewUpload
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import Caller

INPUT, OUTPUT = "batch", "batch_output"
MAX_INPUT_BYTES = 200 * 1_000_000
"""OpenAI's limit."""
FORM_BYTES = 64 * 1024  # of a form beside its file
MAX_NAME = 255
LEAST_KEEP_S, MOST_KEEP_S = 3600, 2_592_000
MAX_FILES = 10_000
CHUNK_BYTES = 1 << 20

GONE = "should be of a file that is there. Where it was deleted meanwhile, list from the beginning"
"""Of the file before a page. Without it, the place of the page is not known: an empty page would be
taken for the end of the list, by a client that deletes the files of each page."""


def new_file_id() -> str:
    return f"file-{secrets.token_hex(12)}"


async def create(request: HttpRequest) -> Response:
    """Store the input file of a batch."""
    caller = await authenticate(request)
    services = services_of(request)
    if not is_form(request):
        raise InvalidInput("The call is not a form. Send the file as multipart/form-data.")
    await services.files.check_disk_for_upload()
    uploads = services.files.uploads
    most = min(MAX_INPUT_BYTES, uploads.max_bytes)
    async with spooled_form(request, most + FORM_BYTES) as (texts, files):
        keep_s = _keep_s(texts)
        if texts.get("purpose") != INPUT:
            message = f"Input should be `{INPUT}`: files for other purposes are not supported"
            raise InvalidInput.of_field("purpose", message)
        file = files.get("file")
        if file is None:
            raise InvalidInput.of_field("file", "Field required", "missing")
        name = (file.filename or "file.jsonl")[:MAX_NAME]
        new = NewUpload(caller.tenant, "application/octet-stream", name, keep_s)
        upload = await uploads.take(new, _chunks(file))
    added = await services.queue.batches.files.add(
        new_file_id(), caller.tenant, upload.key, name, INPUT
    )
    if added is None:
        raise Unavailable("The file was deleted while it was stored. Upload it again.")
    return json_reply(file_object(added))


async def list_files(request: HttpRequest) -> Response:
    caller = await authenticate(request)
    limit = query.page_size(request, default=MAX_FILES, most=MAX_FILES)
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise query.invalid("order", "should be `asc` or `desc`", order)
    book, after = services_of(request).queue.batches.files, query.text(request, "after")
    if after is not None and await book.get(caller.tenant, after, caller.batches_of) is None:
        raise query.invalid("after", GONE, after)
    files = await book.page(
        caller.tenant,
        purpose=query.text(request, "purpose"),
        after=after,
        limit=limit + 1,
        ascending=order == "asc",
        batches_of=caller.batches_of,
    )
    return json_reply(file_page(files, limit))


async def show(request: HttpRequest) -> Response:
    caller = await authenticate(request)
    return json_reply(file_object(await find_file(request, caller)))


async def content(request: HttpRequest) -> Response:
    """Answer with the bytes of a file. In an output, URLs of private files are signed now."""
    caller = await authenticate(request)
    services = services_of(request)
    file = await find_file(request, caller)
    size = await services.files.storage.size(file.key)
    chunks = await begin(services.files.storage.read(file.key, 0, size))
    headers = {"x-content-type-options": "nosniff"}
    if file.purpose == OUTPUT:
        chunks = signed_again(services.files.access, file.tenant, chunks)
    else:
        headers["content-length"] = str(size)
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)


async def signed_again(
    access: FileAccessControl, tenant: str, chunks: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Lines of JSON in pieces, with URLs of the tenant's private files that are valid from now."""
    buffer = b""
    async for chunk in chunks:
        buffer += chunk
        cut = _cut(buffer)
        yield await access.signed_again(buffer[:cut], tenant)
        buffer = buffer[cut:]
    yield await access.signed_again(buffer, tenant)


def _cut(buffer: bytes) -> int:
    """Place before which all URLs are whole: one may begin at the last quote, or end with it."""
    last = buffer.rfind(b'"', max(0, len(buffer) - MAX_URL_BYTES))
    if last < 0:
        return len(buffer)
    before = buffer.rfind(b'"', 0, last)
    ends = before >= 0 and PRIVATE_URL.fullmatch(buffer, before, last + 1) is not None
    return last + 1 if ends else last


async def delete(request: HttpRequest) -> Response:
    """Delete a file. ``RequestActive``: a batch still reads it."""
    caller = await authenticate(request)
    services = services_of(request)
    file = await find_file(request, caller)
    await services.files.uploads.delete(caller, file.key, actor_of(request))
    body: OpenAiDeletedFile = {"id": file.id, "object": "file", "deleted": True}
    return json_reply(body)


async def find_file(request: HttpRequest, caller: Caller) -> BatchFile:
    """File that the path names. ``NotFound``: also if the caller is limited to some endpoints, and
    another key made the batch that wrote the file."""
    file_id: str = request.path_params["file_id"]
    files = services_of(request).queue.batches.files
    file = await files.get(caller.tenant, file_id, caller.batches_of)
    if file is None:
        raise NotFound(f"There is no file {file_id[:64]}.")
    return file


def _keep_s(texts: dict[str, str]) -> float | None:
    text = texts.get("expires_after[seconds]")
    if text is None:
        return None
    if texts.get("expires_after[anchor]", "created_at") != "created_at":
        raise InvalidInput.of_field("expires_after.anchor", "Input should be `created_at`")
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    if not LEAST_KEEP_S <= seconds <= MOST_KEEP_S:
        message = f"Input should be from {LEAST_KEEP_S} to {MOST_KEEP_S}"
        raise InvalidInput.of_field("expires_after.seconds", message)
    return float(seconds)


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk


class FileCreateForm(TypedDict):
    file: Binary
    purpose: Literal["batch"]
    expires_after: NotRequired[dict[str, str]]


ONE = in_path("file_id", "Id of the file.")

CREATE = Operation(
    "openaiCreateFile",
    "Upload the input file of a batch",
    {200: answer("The file.", OpenAiFile)},
    errors=(400, 413, 429, 503, 507),
    content={"multipart/form-data": FileCreateForm},
    tag=TAG,
    error_format=ERRORS,
)
LIST = Operation(
    "openaiListFiles",
    "List inputs and outputs of the tenant's batches, newest first",
    {200: answer("A page.", OpenAiFilePage)},
    errors=(400,),
    parameters=(
        in_query("purpose", "Only of this purpose: `batch` or `batch_output`."),
        in_query("after", "`last_id` of the previous page."),
        in_query("limit", "1 to 10,000; default 10,000.", int),
        in_query("order", "By their creation; default `desc`.", Literal["asc", "desc"]),
    ),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = Operation(
    "openaiGetFile",
    "Show a file",
    {200: answer("The file.", OpenAiFile)},
    errors=(404,),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
GET_CONTENT = Operation(
    "openaiGetFileContent",
    "Get the content of a file",
    {200: answer("The content.", Binary, "application/octet-stream")},
    errors=(404, 503),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
DELETE = Operation(
    "openaiDeleteFile",
    "Delete a file that no running batch reads",
    {200: answer("The file is deleted.", OpenAiDeletedFile)},
    errors=(400, 404),
    parameters=(ONE,),
    tag=TAG,
    error_format=ERRORS,
)
