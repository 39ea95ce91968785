"""fal's uploads: a file comes in one call, or in parts.

fal's Python client asks for a token (``/rest/storage/auth/token``). It sends the file to
``/cdn/files/upload``, or in parts to the URL that it gets there. The JavaScript client, and the
second method of the Python client, ask for a URL (``/rest/storage/upload/…``) and PUT the file
there without a credential: knowing the URL is the right to upload this one file.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.sharing.fair_queue import work_from_now_on_for
from serve_app.domain.upload import Upload
from serve_app.ingress.http.auth import authenticate, owner_of_token
from serve_app.ingress.http.body import UploadStream, read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary, Time
from serve_app.ingress.http.openapi import (
    ANY,
    DocumentedRoute,
    Operation,
    answer,
    in_header,
    in_path,
)
from serve_app.ingress.http.origin import file_url, origin_of
from serve_app.ingress.services.files import MAX_PART_BYTES, NewUpload
from serve_app.ingress.services.open_access import Access
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.lifecycle import read_lifecycle
from serve_app.storage.keys import DEFAULT_MEDIA_TYPE, MAX_PARTS, upload_not_found
from serve_app.tenants.scopes import FILES
from serve_app.tenants.sign_in import ACTOR

FILE_NAME = "x-fal-file-name"
LARGER_PART = f"A part exceeds the limit of {MAX_PART_BYTES} bytes. Send smaller parts."

MAX_CALL_BYTES = 1024 * 1024  # of JSON: the names of ten thousand parts need half of it


class InitiateUpload(BaseModel):
    """Description of the file that a client is going to upload."""

    model_config = ConfigDict(extra="ignore")

    file_name: str = Field(default="", max_length=1024)
    content_type: str = Field(default=DEFAULT_MEDIA_TYPE, max_length=255)


class NamedPart(BaseModel):
    """Part with the ETag of its upload."""

    number: Annotated[int, Field(alias="partNumber", ge=1, le=MAX_PARTS)]
    etag: str = Field(max_length=255)


class CompletedUpload(BaseModel):
    """Parts of a file, in any order."""

    parts: list[NamedPart] = Field(min_length=1, max_length=MAX_PARTS)


class UploadCredential(TypedDict):
    token: str
    token_type: Literal["Bearer"]
    base_url: str
    expires_at: Time


class UploadPlace(TypedDict):
    """URL to which a file is uploaded, and the URL that the file will have."""

    upload_url: str
    file_url: str


class UploadedFile(TypedDict):
    access_url: str


class BegunUpload(UploadedFile):
    """Parts go to `{access_url}/multipart/{uploadId}/{number}`."""

    uploadId: str


class StoredFile(TypedDict):
    file_url: str


class StoredPart(TypedDict):
    partNumber: int
    etag: str


class JoinedFile(UploadedFile, StoredFile):
    file_size: int | None


async def token(request: HttpRequest) -> Response:
    """``POST /rest/storage/auth/token``: a token that allows uploads for some minutes."""
    context_of(request).route = "fal.upload.token"
    origin = origin_of(request)
    caller = await authenticate(request)
    credential = services_of(request).identity.upload_tokens.make(caller)
    body: UploadCredential = {
        "token": credential.text,
        "token_type": "Bearer",
        "base_url": f"{origin}/cdn",
        "expires_at": credential.expires_at.isoformat(),
    }
    return json_reply(body)


async def initiate(request: HttpRequest) -> Response:
    """``POST /rest/storage/upload/initiate``: URL to PUT a file to, and the file's later URL."""
    context_of(request).route = "fal.upload.initiate"
    upload, origin = await _offer_upload(request, in_parts=False)
    body: UploadPlace = {
        "upload_url": f"{file_url(origin, upload.key)}/upload/{upload.id}",
        "file_url": _readable(request, origin, upload),
    }
    return json_reply(body)


async def initiate_in_parts(request: HttpRequest) -> Response:
    """``POST /rest/storage/upload/initiate-multipart``: the parts' base URL, and the file's URL."""
    context_of(request).route = "fal.upload.initiate"
    upload, origin = await _offer_upload(request, in_parts=True)
    body: UploadPlace = {
        "upload_url": f"{file_url(origin, upload.key)}/multipart/{upload.id}",
        "file_url": _readable(request, origin, upload),
    }
    return json_reply(body)


async def upload_file(request: HttpRequest) -> Response:
    """``POST /cdn/files/upload``: the body is the file."""
    context_of(request).route = "fal.upload"
    uploads, incoming = services_of(request).files.uploads, _incoming(request)
    origin, new = await _new(request)
    upload = await uploads.take(new, incoming.chunks())
    body: UploadedFile = {"access_url": _readable(request, origin, upload)}
    return json_reply(body)


async def begin_parts(request: HttpRequest) -> Response:
    """``POST /cdn/files/upload/multipart``: parts go to ``{access_url}/multipart/{uploadId}``."""
    context_of(request).route = "fal.upload.initiate"
    origin, new = await _new(request)
    upload = await services_of(request).files.uploads.offer(new, in_parts=True)
    # Without a signature: the parts' URLs begin with it.
    body: BegunUpload = {"access_url": file_url(origin, upload.key), "uploadId": upload.id}
    return json_reply(body)


async def content(request: HttpRequest) -> Response:
    """``PUT`` of a whole file to the URL from ``initiate``."""
    context_of(request).route = "fal.upload"
    uploads, incoming = services_of(request).files.uploads, _incoming(request)
    upload = await _find_upload(request, in_parts=False)
    await uploads.receive(upload, incoming.chunks())
    body: StoredFile = {"file_url": _readable(request, origin_of(request), upload)}
    return json_reply(body)


async def part(request: HttpRequest) -> Response:
    """``PUT`` of one part. The response has its ETag as a header and in the body, because fal's two
    clients read different ones."""
    context_of(request).route = "fal.upload.part"
    files = services_of(request).files
    if files.uploads.max_bytes < MAX_PART_BYTES:
        incoming = _incoming(request)
    else:
        incoming = UploadStream(request, MAX_PART_BYTES, LARGER_PART, files.check_disk_for_upload)
    upload = await _find_upload(request, in_parts=True)
    number = _part_number(request.path_params["number"])
    stored = await files.uploads.receive_part(upload, number, incoming.chunks())
    etag = f'"{stored.etag}"'
    body: StoredPart = {"partNumber": number, "etag": etag}
    return json_reply(body, headers={"etag": etag})


def _part_number(text: str) -> int:
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_PARTS))
    if digits and 1 <= int(text) <= MAX_PARTS:
        return int(text)
    message = f"parts are numbered from 1 to {MAX_PARTS}"
    problem = FieldProblem(("path", "number"), message, "value_error", None, text)
    raise InvalidInput(f"{message}.", (problem,))


async def join(request: HttpRequest) -> Response:
    """``POST``: join the parts that the body names, in any order, into the file."""
    context_of(request).route = "fal.upload.complete"
    files = services_of(request).files
    upload = await _find_upload(request, in_parts=True)
    joining = await read_model(request, CompletedUpload, MAX_CALL_BYTES)
    etags = {piece.number: piece.etag.strip('"') for piece in joining.parts}
    joined = await files.uploads.join(upload, etags)
    url = _readable(request, origin_of(request), joined)
    body: JoinedFile = {"access_url": url, "file_url": url, "file_size": joined.size}
    return json_reply(body)


TAG = "uploads"
KEY = in_path("key", "The key in the URL of the upload; it contains slashes.")
UPLOAD_ID = in_path(
    "upload_id",
    "The id in the URL of the upload. It is the only credential, until the key that asked for it "
    "ends.",
)
LIFECYCLE = in_header(
    "X-Fal-Object-Lifecycle",
    'JSON: `{"expiration_duration_seconds": 3600, "initial_acl": {"default": "forbid"}}`. The name '
    "may also end in `-Preference`.",
)
NAME = in_header("X-Fal-File-Name", "Name of the file. It is part of the file's URL.")

ISSUE_TOKEN = Operation(
    "uploadToken",
    "Issue a token for uploads",
    {200: answer("The token.", UploadCredential)},
    errors=(400,),
    tag=TAG,
)
INITIATE = Operation(
    "initiateUpload",
    "Get a URL to upload one file to",
    {200: answer("The URL to PUT the file to, and the file's later URL.", UploadPlace)},
    errors=(413, 422, 429, 507),
    parameters=(LIFECYCLE,),
    body=InitiateUpload,
    tag=TAG,
)
INITIATE_PARTS = replace(
    INITIATE, name="initiateMultipartUpload", summary="Get a URL to upload one file in parts to"
)
UPLOAD = Operation(
    "upload",
    "Upload a file as the body. Needs an upload token or a key",
    {200: answer("The file is stored.", UploadedFile)},
    errors=(413, 422, 429, 507),
    parameters=(NAME, LIFECYCLE),
    content={ANY: Binary},
    tag=TAG,
)
BEGIN_PARTS = Operation(
    "beginMultipartUpload",
    "Begin the upload of a file in parts. Needs an upload token or a key",
    {200: answer("Parts go to `{access_url}/multipart/{uploadId}/{number}`.", BegunUpload)},
    errors=(422, 429, 507),
    parameters=(NAME, LIFECYCLE),
    tag=TAG,
)
UPLOAD_CONTENT = Operation(
    "uploadContent",
    "Upload a file to the URL from `initiateUpload`",
    {200: answer("The file is stored.", StoredFile)},
    errors=(401, 403, 404, 413, 507),
    parameters=(KEY, UPLOAD_ID),
    content={ANY: Binary},
    tag=TAG,
    key=False,
)
UPLOAD_PART = Operation(
    "uploadPart",
    "Upload one part. Its ETag is also a header of the response",
    {200: answer("The part is stored.", StoredPart)},
    errors=(401, 403, 404, 413, 422, 507),
    parameters=(KEY, UPLOAD_ID, in_path("number", "1 to 10000.")),
    content={ANY: Binary},
    tag=TAG,
    key=False,
)
JOIN = Operation(
    "completeMultipartUpload",
    "Join the parts into the file",
    {200: answer("The file is stored.", JoinedFile)},
    errors=(401, 403, 404, 413, 422, 507),
    parameters=(KEY, UPLOAD_ID),
    body=CompletedUpload,
    tag=TAG,
    key=False,
)

ROUTES = [
    DocumentedRoute("/rest/storage/auth/token", token, {"POST": ISSUE_TOKEN}, FILES),
    DocumentedRoute("/rest/storage/upload/initiate", initiate, {"POST": INITIATE}, FILES),
    DocumentedRoute(
        "/rest/storage/upload/initiate-multipart",
        initiate_in_parts,
        {"POST": INITIATE_PARTS},
        FILES,
    ),
    DocumentedRoute("/cdn/files/upload", upload_file, {"POST": UPLOAD}, FILES),
    DocumentedRoute("/cdn/files/upload/multipart", begin_parts, {"POST": BEGIN_PARTS}, FILES),
    # With the secret of their URLs these need no key.
    DocumentedRoute(
        "/files/{key:path}/upload/{upload_id}", content, {"PUT": UPLOAD_CONTENT}, FILES
    ),
    DocumentedRoute(
        "/files/{key:path}/multipart/{upload_id}/{number}", part, {"PUT": UPLOAD_PART}, FILES
    ),
    DocumentedRoute(
        "/files/{key:path}/multipart/{upload_id}/complete", join, {"POST": JOIN}, FILES
    ),
]


async def _offer_upload(request: HttpRequest, *, in_parts: bool) -> tuple[Upload, str]:
    files, origin = services_of(request).files, origin_of(request)
    caller = await authenticate(request)
    initiated = await read_model(request, InitiateUpload, MAX_CALL_BYTES)
    lifecycle = read_lifecycle(request.headers)
    new = NewUpload(
        caller.tenant,
        initiated.content_type,
        initiated.file_name,
        lifecycle.expiration_duration_seconds,
        lifecycle.access,
        _key_id(request),
    )
    await files.check_disk_for_upload()
    upload = await files.uploads.offer(new, in_parts=in_parts)
    return upload, origin


async def _new(request: HttpRequest) -> tuple[str, NewUpload]:
    """Origin of the file's URL, and the upload that the headers describe."""
    origin, headers = origin_of(request), request.headers
    tenant = await _tenant(request)
    media_type = headers.get("content-type", DEFAULT_MEDIA_TYPE)
    lifecycle = read_lifecycle(headers)
    keep_s, acl = lifecycle.expiration_duration_seconds, lifecycle.access
    name, key_id = _file_name(headers), _key_id(request)
    return origin, NewUpload(tenant, media_type, name, keep_s, acl, key_id)


def _key_id(request: HttpRequest) -> str:
    """Key of the authenticated call; empty for a person, who has none."""
    key_id = context_of(request).key_id
    return "" if key_id.startswith(ACTOR) else key_id


def _file_name(headers: Headers) -> str:
    """Name in UTF-8, or in Latin-1, in which headers are read: clients write both."""
    name = headers.get(FILE_NAME, "")
    try:
        return name.encode("latin-1").decode()
    except UnicodeDecodeError:
        return name


def _readable(request: HttpRequest, origin: str, upload: Upload) -> str:
    """URL with which the client reads its file, as those in results."""
    return services_of(request).files.access.url(origin, upload.key, upload.tenant)


async def _tenant(request: HttpRequest) -> str:
    """Tenant of the call, authenticated by an upload token or by a key."""
    header = request.headers.get("authorization")
    grant = services_of(request).identity.upload_tokens.grant_of(header)
    if grant is None:
        return (await authenticate(request)).tenant
    return (await owner_of_token(request, grant.key_id)).tenant


async def _find_upload(request: HttpRequest, *, in_parts: bool) -> Upload:
    """Upload that the URL names.

    Knowing the URL is enough, until the key that asked for it ends. If the call also has a token
    or a key, its tenant must be the same.
    """
    params = request.path_params
    upload = await services_of(request).files.uploads.find(
        params["key"], params["upload_id"], in_parts=in_parts
    )
    if "authorization" not in request.headers:
        await _follow_owner(request, upload)
    elif await _tenant(request) != upload.tenant:
        raise upload_not_found()
    work_from_now_on_for(upload.tenant)
    return upload


async def _follow_owner(request: HttpRequest, upload: Upload) -> None:
    """End the call with the upload's key or, of a person, with its tenant. ``Unauthenticated``,
    ``TenantDisabled``."""
    if upload.key_id:
        await owner_of_token(request, upload.key_id)
        return
    tenant = upload.tenant
    enabled = partial(services_of(request).identity.tenants.require_enabled, tenant)

    async def check() -> None:
        enabled()

    await check()
    context_of(request).access = Access(("upload", tenant), check)


def _incoming(request: HttpRequest) -> UploadStream:
    """Body of a call that has a whole file."""
    files = services_of(request).files
    return UploadStream(
        request,
        files.uploads.max_bytes,
        files.uploads.too_large,
        files.check_disk_for_upload,
    )
