"""Files: uploads for a workflow's nodes, and what its nodes have made."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NotRequired, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response, StreamingResponse
from typing_extensions import TypedDict

from serve_app.domain.artifact import is_elsewhere
from serve_app.domain.errors import ArtifactNotFound, InvalidInput, RequestNotFound
from serve_app.domain.media.images import read_alpha, read_colours, read_header
from serve_app.ingress.comfyui import prompt
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import ERRORS, TAG
from serve_app.ingress.http import query
from serve_app.ingress.http.body import Form, FormFile, is_form, read_form
from serve_app.ingress.http.content_disposition import content_disposition
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import ANY, Answer, Operation, answer, in_query
from serve_app.ingress.http.stored_file import begin
from serve_app.ingress.services import request_ids
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.files import NewUpload
from serve_app.ingress.services.services import Services, services_of
from serve_app.storage import keys
from serve_app.tenants.scopes import Caller

FIELD = "image"
RECENT = 1000
"""Newest uploads of a tenant among which a bare name is looked for."""

MAX_NAME = 512  # characters
MEDIA = ("image/", "video/", "audio/")
"""Types of files that nodes load from the folder for inputs. Models are in folders of their own."""

MARK = " [input]"
"""Suffix with which ComfyUI's nodes name the folder of a file."""

NO_FILE = "There is no such file."


class ImageForm(TypedDict):
    image: Binary
    overwrite: NotRequired[str]
    type: NotRequired[str]
    subfolder: NotRequired[str]


class MaskForm(ImageForm):
    """``original_ref``: JSON with the filename, subfolder and type of an image."""

    original_ref: str


class UploadedImage(TypedDict):
    """``name`` is what a node such as LoadImage takes."""

    name: str
    subfolder: str
    type: str


async def upload_image(request: HttpRequest) -> Response:
    """``POST /upload/image``: store a file. It is a normal upload, and its key is its name."""
    caller = await caller_of(request)
    services = services_of(request)
    form, file = await read_file(request, FIELD)
    if form.texts.get("type", "input") != "input":
        raise InvalidInput.of_field("type", "Only files for inputs can be uploaded: send `input`")
    new = NewUpload(caller.tenant, file.media_type, file.name)
    upload = await services.files.uploads.take_whole(new, file.content)
    body: UploadedImage = {"name": upload.key, "subfolder": "", "type": "input"}
    return json_reply(body)


async def read_file(request: HttpRequest, field: str) -> tuple[Form, FormFile]:
    """Form with one file, in ``field``. Raises as ``read_form``, or if there is no such file."""
    if not is_form(request):
        raise InvalidInput("The call is not a form. Send the file as multipart/form-data.")
    services = services_of(request)
    await services.files.check_disk_for_upload()
    form = await read_form(request, services.config.limits.max_body_bytes, most_files=1)
    if not (files := form.files.get(field)):
        raise InvalidInput.of_field(field, "Field required", "missing")
    return form, files[0]


async def upload_mask(request: HttpRequest) -> Response:
    """``POST /upload/mask``: store an image with the alpha channel of another one as its mask.

    ``original_ref`` names the image: an upload, or what a prompt of the tenant has made.
    """
    caller = await caller_of(request)
    services = services_of(request)
    form, mask = await read_file(request, FIELD)
    ref = _reference(form.texts.get("original_ref", ""))
    name = str(ref.get("filename", "")).removesuffix(MARK)
    folder = str(ref.get("subfolder") or "")
    if ref.get("type", "output") == "input":
        key = await _upload(services, caller, f"{folder}/{name}" if folder else name, {})
    else:
        endpoint = endpoint_of(request, caller).endpoint.id
        key = await _find_output(services, caller.tenant, endpoint, folder, name)
    if key is None or is_elsewhere(key):
        raise InvalidInput.of_field("original_ref", "There is no such image here")
    size = await services.files.storage.size(key)
    if size > services.config.limits.max_body_bytes:
        raise InvalidInput.of_field("original_ref", "The image is too large for a mask")
    content = b"".join([chunk async for chunk in services.files.storage.read(key, 0, size)])
    async with services.mask_decoding:
        masked = await in_cpu_thread(with_alpha_of, content, mask.content)
    new = NewUpload(caller.tenant, "image/png", mask.name)
    upload = await services.files.uploads.take_whole(new, masked)
    body: UploadedImage = {"name": upload.key, "subfolder": "", "type": "input"}
    return json_reply(body)


def _reference(text: str) -> Mapping[str, Any]:
    try:
        ref = json.loads(text)
    except (ValueError, RecursionError):  # for thousands of brackets
        ref = None
    if not isinstance(ref, dict):
        message = "Input should be JSON with the filename, subfolder and type of an image"
        raise InvalidInput.of_field("original_ref", message)
    return cast("Mapping[str, Any]", ref)


def with_alpha_of(image: bytes, mask: bytes) -> bytes:
    """PNG of ``image`` with the alpha channel of ``mask``. ``InvalidInput`` names the one that
    cannot be read, or that has another size. It takes long, so call it in a thread."""
    original, drawn = read_header(image, "original_ref"), read_header(mask, FIELD)
    if (original.width, original.height) != (drawn.width, drawn.height):
        raise InvalidInput.of_field(FIELD, "The mask and the image must have the same size")
    colours, alpha = read_colours(image, "original_ref"), read_alpha(mask, FIELD)
    colours.putalpha(255 if alpha is None else alpha)
    written = io.BytesIO()
    colours.save(written, "PNG", compress_level=4)
    return written.getvalue()


async def view(request: HttpRequest) -> Response:
    """``GET /view``: a file that a prompt of the tenant has made, or that it has uploaded."""
    caller = await caller_of(request)
    services = services_of(request)
    name = (query.text(request, "filename") or "").removesuffix(MARK)
    folder = query.text(request, "subfolder") or ""
    if query.text(request, "type") == "input":
        path = f"{folder}/{name}" if folder else name
        key = await _upload(services, caller, path, {})
    else:
        endpoint = endpoint_of(request, caller).endpoint.id
        key = await _find_output(services, caller.tenant, endpoint, folder, name)
    if key is None:
        raise ArtifactNotFound(NO_FILE)
    if is_elsewhere(key):
        return RedirectResponse(key, 307)
    storage = services.files.storage
    size = await storage.size(key)
    headers = {
        "content-type": keys.media_type_of(key),
        "content-length": str(size),
        "content-disposition": content_disposition("inline", keys.file_name(name)),
        "cache-control": "private, no-store",
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(await begin(storage.read(key, 0, size)), headers=headers)


async def named_files(
    services: Services, caller: Caller, origin: str, graph: Mapping[str, Any]
) -> dict[str, str]:
    """URLs of the uploads that values of a graph name, by these names.

    A name that is no upload stays: nodes know files of ComfyUI's own.
    """
    urls: dict[str, str] = {}
    recent: dict[str, str] = {}
    for name in dict.fromkeys(_file_names(graph)):
        key = await _upload(services, caller, name.removesuffix(MARK), recent)
        if key is not None:
            urls[name] = services.files.access.url(origin, key, caller.tenant)
    return urls


def _file_names(graph: Mapping[str, Any]) -> Iterator[str]:
    """Values that end like a file's name."""
    for node in graph.values():
        for value in cast("Mapping[str, Any]", node["inputs"]).values():
            named = isinstance(value, str) and len(value) <= MAX_NAME and "." in value
            if named and keys.upload_type("", value.removesuffix(MARK)).startswith(MEDIA):
                yield value


async def _upload(
    services: Services, caller: Caller, name: str, recent: dict[str, str]
) -> str | None:
    """Key of an upload with this name: a key, or the file name of a recent one. ``recent`` is
    filled when it is needed."""
    uploads = services.files.uploads
    if "/" in name:
        try:
            return (await uploads.get_file(caller, name)).key if keys.valid(name) else None
        except ArtifactNotFound:
            return None
    if not recent:
        for upload in reversed(await uploads.page(caller, None, RECENT)):
            recent[upload.key.rpartition("/")[2]] = upload.key
    # Names of uploads are written with plain characters only.
    return recent.get(keys.upload_name(keys.upload_type("", name), name))


async def _find_output(
    services: Services, tenant: str, endpoint: str, request_id: str, name: str
) -> str | None:
    if not request_ids.valid(request_id):
        return None
    try:
        request = await services.queue.get(tenant, request_id)
    except RequestNotFound:
        return None
    if request.endpoint != endpoint:
        return None
    return next((file.key for file in prompt.files(request) if file.name == name), None)


UPLOAD = Operation(
    "comfyuiUploadImage",
    "Upload a file for a node",
    {200: answer("The file.", UploadedImage)},
    errors=(400, 413, 429, 503, 507),
    content={"multipart/form-data": ImageForm},
    tag=TAG,
    error_format=ERRORS,
)
UPLOAD_MASK = replace(
    UPLOAD,
    name="comfyuiUploadMask",
    summary="Upload a mask for an image",
    responses={200: answer("The image with the mask.", UploadedImage)},
    errors=(400, 404, 413, 429, 503, 507),
    content={"multipart/form-data": MaskForm},
)
VIEW = Operation(
    "comfyuiView",
    "Read a file that a prompt has made, or an upload",
    {200: answer("The file.", Binary, ANY), 307: Answer("The file is in a bucket of its client.")},
    errors=(404,),
    parameters=(
        in_query("filename", "As the history has it.", required=True),
        in_query("subfolder", "As the history has it."),
        in_query("type", "`output`, or `input` for an upload."),
    ),
    tag=TAG,
    error_format=ERRORS,
)
