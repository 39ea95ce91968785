"""fal's uploads: its clients bring files at once, or in parts.

The Python client asks for a token (``/rest/storage/auth/token``) and brings the file to
``/cdn/files/upload``, or in parts to the URL that it gets there. The JavaScript client, and the
Python client's second way, ask for a URL (``/rest/storage/upload/…``) and PUT the file there,
without any credential: the URL is the right to do it, for one file.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.problems import invalid_input
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.upload import Upload
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.lifecycle import keep_s_of
from serve_app.ingress.incoming import Incoming
from serve_app.ingress.origin import file_url, origin_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.uploads import MAX_PART_BYTES, NewUpload
from serve_app.storage.keys import ANY
from serve_app.storage.parts import MOST_PARTS, no_parts

FILE_NAME = "x-fal-file-name"
LARGER_PART = f"A part is larger than the {MAX_PART_BYTES} bytes that may come at once."

MAX_CALL_BYTES = 1024 * 1024  # of JSON: ten thousand parts are named in half of it


class Announced(BaseModel):
    """What a client says of the file that it will bring."""

    model_config = ConfigDict(extra="ignore")

    file_name: str = Field(default="", max_length=1024)
    content_type: str = Field(default=ANY, max_length=255)


class NamedPart(BaseModel):
    number: Annotated[int, Field(alias="partNumber", ge=1, le=MOST_PARTS)]
    etag: str = Field(max_length=255)


class Joining(BaseModel):
    parts: list[NamedPart] = Field(min_length=1, max_length=MOST_PARTS)


async def token(request: HttpRequest) -> Response:
    """``POST /rest/storage/auth/token``: the right to upload, for some minutes."""
    exchange_of(request).route = "fal.upload.token"
    origin = origin_of(request)
    caller = await caller_of(request)
    made = core_of(request).upload_tokens.make(caller.tenant)
    return json_reply(
        {
            "token": made.text,
            "token_type": "Bearer",
            "base_url": f"{origin}/cdn",
            "expires_at": made.expires_at.isoformat(),
        }
    )


async def initiate(request: HttpRequest) -> Response:
    """``POST /rest/storage/upload/initiate``: where to PUT a file, and where it will be."""
    exchange_of(request).route = "fal.upload.initiate"
    upload, url = await _offered(request, in_parts=False)
    return json_reply({"upload_url": f"{url}/upload/{upload.id}", "file_url": url})


async def initiate_in_parts(request: HttpRequest) -> Response:
    """``POST /rest/storage/upload/initiate-multipart``: the same; the parts go below the URL."""
    exchange_of(request).route = "fal.upload.initiate"
    upload, url = await _offered(request, in_parts=True)
    return json_reply({"upload_url": f"{url}/multipart/{upload.id}", "file_url": url})


async def at_once(request: HttpRequest) -> Response:
    """``POST /cdn/files/upload``: the body is the file."""
    exchange_of(request).route = "fal.upload"
    uploads, incoming = core_of(request).uploads, _incoming(request)
    async with incoming.heard_out():
        origin, new = await _new(request)
        upload = await uploads.take(new, incoming.chunks())
    return json_reply({"access_url": file_url(origin, upload.key)})


async def begin_parts(request: HttpRequest) -> Response:
    """``POST /cdn/files/upload/multipart``: parts go to ``{access_url}/multipart/{uploadId}``."""
    exchange_of(request).route = "fal.upload.initiate"
    origin, new = await _new(request)
    upload = await core_of(request).uploads.offer(new, in_parts=True)
    return json_reply({"access_url": file_url(origin, upload.key), "uploadId": upload.id})


async def content(request: HttpRequest) -> Response:
    """``PUT`` of a whole file to the URL that ``initiate`` gave."""
    exchange_of(request).route = "fal.upload"
    uploads, incoming = core_of(request).uploads, _incoming(request)
    async with incoming.heard_out():
        upload = await _found(request, in_parts=False)
        await uploads.receive(upload, incoming.chunks())
    return json_reply({"file_url": file_url(origin_of(request), upload.key)})


async def part(request: HttpRequest) -> Response:
    """``PUT`` of one part. Its ETag is in the answer twice: where each of the clients looks."""
    exchange_of(request).route = "fal.upload.part"
    core = core_of(request)
    if core.uploads.max_bytes < MAX_PART_BYTES:
        incoming = _incoming(request)
    else:
        incoming = Incoming(request, MAX_PART_BYTES, LARGER_PART, core.room)
    async with incoming.heard_out():
        upload = await _found(request, in_parts=True)
        number = _part_number(request.path_params["number"])
        stored = await core.uploads.receive_part(upload, number, incoming.chunks())
    etag = f'"{stored.etag}"'
    return json_reply({"partNumber": number, "etag": etag}, headers={"etag": etag})


def _part_number(given: str) -> int:
    digits = given.isascii() and given.isdecimal() and len(given) <= len(str(MOST_PARTS))
    if digits and 1 <= int(given) <= MOST_PARTS:
        return int(given)
    message = f"parts are numbered from 1 to {MOST_PARTS}"
    problem = FieldProblem(("path", "number"), message, "value_error", None, given)
    raise InvalidInput(f"{message}.", (problem,))


async def join(request: HttpRequest) -> Response:
    """``POST``: the file of the parts that the body names, in any order."""
    exchange_of(request).route = "fal.upload.complete"
    core = core_of(request)
    upload = await _found(request, in_parts=True)
    try:
        joining = Joining.model_validate(await read_json(request, MAX_CALL_BYTES))
    except ValidationError as error:
        raise invalid_input(error) from None
    etags = {each.number: each.etag.strip('"') for each in joining.parts}
    joined = await core.uploads.join(upload, etags)
    url = file_url(origin_of(request), joined.key)
    return json_reply({"access_url": url, "file_url": url, "file_size": joined.size})


ROUTES = [
    Route("/rest/storage/auth/token", token, methods=["POST"]),
    Route("/rest/storage/upload/initiate", initiate, methods=["POST"]),
    Route("/rest/storage/upload/initiate-multipart", initiate_in_parts, methods=["POST"]),
    Route("/cdn/files/upload", at_once, methods=["POST"]),
    Route("/cdn/files/upload/multipart", begin_parts, methods=["POST"]),
    Route("/files/{key:path}/upload/{upload_id}", content, methods=["PUT"]),
    Route("/files/{key:path}/multipart/{upload_id}/{number}", part, methods=["PUT"]),
    Route("/files/{key:path}/multipart/{upload_id}/complete", join, methods=["POST"]),
]


async def _offered(request: HttpRequest, *, in_parts: bool) -> tuple[Upload, str]:
    core, origin = core_of(request), origin_of(request)
    caller = await caller_of(request)
    try:
        said = Announced.model_validate(await read_json(request, MAX_CALL_BYTES))
    except ValidationError as error:
        raise invalid_input(error) from None
    keep_s = keep_s_of(request.headers)
    new = NewUpload(caller.tenant, said.content_type, said.file_name, keep_s)
    if core.room is not None:
        await core.room()
    upload = await core.uploads.offer(new, in_parts=in_parts)
    return upload, file_url(origin, upload.key)


async def _new(request: HttpRequest) -> tuple[str, NewUpload]:
    """The origin of its URL, and what the headers say."""
    origin, headers = origin_of(request), request.headers
    tenant = await _tenant(request)
    media_type = headers.get("content-type", ANY)
    return origin, NewUpload(tenant, media_type, headers.get(FILE_NAME, ""), keep_s_of(headers))


async def _tenant(request: HttpRequest) -> str:
    """By a token or by a key."""
    header = request.headers.get("authorization")
    tenant = core_of(request).upload_tokens.tenant_of(header)
    return (await caller_of(request)).tenant if tenant is None else tenant


async def _found(request: HttpRequest, *, in_parts: bool) -> Upload:
    """What the URL names. To know the URL is enough; a token or key that comes along has to be of
    the same tenant."""
    params = request.path_params
    found = await core_of(request).uploads.find(
        params["key"], params["upload_id"], in_parts=in_parts
    )
    if "authorization" in request.headers and await _tenant(request) != found.tenant:
        raise no_parts()
    return found


def _incoming(request: HttpRequest) -> Incoming:
    """A whole file."""
    core = core_of(request)
    return Incoming(request, core.uploads.max_bytes, core.uploads.too_large, core.room)
