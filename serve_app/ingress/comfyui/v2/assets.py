"""Assets: the files that a client uploads for its workflows, and what its jobs have made."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NotRequired, TypeGuard, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response
from typing_extensions import TypedDict

from serve_app.domain.artifact import is_elsewhere
from serve_app.domain.errors import ArtifactNotFound, InvalidInput, RequestNotFound
from serve_app.domain.request import Request
from serve_app.domain.upload import KeptFile
from serve_app.ingress.comfyui import prompt
from serve_app.ingress.comfyui.endpoint import caller_of, endpoint_of
from serve_app.ingress.comfyui.errors import TAG
from serve_app.ingress.comfyui.files import read_file
from serve_app.ingress.comfyui.v2.errors import ERRORS, MISSING_ASSET
from serve_app.ingress.http.auth import actor_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import ANY, Answer, Operation, answer, in_path
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.paths import COMFYUI_PREFIX
from serve_app.ingress.services import request_ids
from serve_app.ingress.services.files import NewUpload
from serve_app.ingress.services.services import Services, services_of
from serve_app.storage import keys
from serve_app.tenants.scopes import Caller

API = f"{COMFYUI_PREFIX}/api/v2"
NO_ASSET = "There is no such asset."
REFERENCE = "core/ASSET"
"""``__type`` of the value of a node's input that names an asset."""


class ComfyApiAsset(TypedDict):
    """File. ``hash``: always null; no hashes of files are kept."""

    id: str
    hash: None
    size_bytes: int
    content_type: str
    file_path: str
    created_at: str
    url: str
    url_expires_at: str
    expires_at: str | None
    created_new: NotRequired[bool]
    job_id: NotRequired[str]


class AssetForm(TypedDict):
    file: Binary
    content_type: NotRequired[str]
    file_path: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Asset:
    """File in storage, or a text that a node has made."""

    id: str
    name: str
    media_type: str
    size: int  # bytes
    created_at: datetime
    key: str | None = None  # in storage; None: a text
    text: str = ""
    expires_at: datetime | None = None  # None: it does not expire
    job_id: str | None = None  # None: it was uploaded
    node: str = ""


@dataclass(frozen=True, slots=True)
class AssetUrls:
    """Makes URLs of assets for their tenant, who calls now."""

    services: Services
    tenant: str
    origin: str

    @classmethod
    def of(cls, request: HttpRequest, caller: Caller) -> AssetUrls:
        return cls(services_of(request), caller.tenant, origin_of(request))

    def url(self, asset: Asset) -> str:
        if asset.key is None:
            return f"{self.origin}{API}/assets/{asset.id}/content"
        return self.services.files.access.url(self.origin, asset.key, self.tenant)

    def expiry(self) -> str:
        """When a URL of now ends, if the file is private."""
        valid_s = self.services.files.access.defaults.valid_s(self.tenant)
        return (self.services.clock.now() + timedelta(seconds=valid_s)).isoformat()


async def upload(request: HttpRequest) -> Response:
    """``POST /assets``: store a file. It is a normal upload."""
    caller = await caller_of(request)
    services = services_of(request)
    form, file = await read_file(request, "file")
    name = (form.texts.get("file_path") or file.name or "").rpartition("/")[2]
    media_type = form.texts.get("content_type") or file.media_type
    new = NewUpload(caller.tenant, media_type, name, key_id=caller.key_id)
    stored = await services.files.uploads.take_whole(new, file.content)
    asset = _of_upload(await services.files.uploads.get_file(caller, stored.key))
    body = asset_body(asset, AssetUrls.of(request, caller))
    return json_reply({**body, "created_new": True}, 201)


async def show(request: HttpRequest) -> Response:
    """``GET /assets/{asset_id}``: a file, with a URL of its content."""
    caller = await caller_of(request)
    asset = await _find_asset(request, caller, request.path_params["asset_id"])
    return json_reply(asset_body(asset, AssetUrls.of(request, caller)))


async def content(request: HttpRequest) -> Response:
    """``GET /assets/{asset_id}/content``: redirect to the file, or a text itself."""
    caller = await caller_of(request)
    asset = await _find_asset(request, caller, request.path_params["asset_id"])
    if asset.key is None:
        headers = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}
        return Response(asset.text, media_type=asset.media_type, headers=headers)
    return RedirectResponse(AssetUrls.of(request, caller).url(asset), 302)


async def delete(request: HttpRequest) -> Response:
    """``DELETE /assets/{asset_id}``: delete an upload."""
    caller = await caller_of(request)
    asset = await _find_asset(request, caller, request.path_params["asset_id"])
    if asset.key is None or asset.job_id is not None:
        raise InvalidInput(
            f"{asset.name} is a result of the job {asset.job_id}, and is deleted with it: "
            f"DELETE /v1/requests/{asset.id.rpartition('.')[0]}."
        )
    await services_of(request).files.uploads.delete(caller, asset.key, actor_of(request))
    return Response(status_code=204)


def asset_body(asset: Asset, urls: AssetUrls) -> ComfyApiAsset:
    body: ComfyApiAsset = {
        "id": asset.id,
        "hash": None,
        "size_bytes": asset.size,
        "content_type": asset.media_type,
        "file_path": asset.name,
        "created_at": asset.created_at.isoformat(),
        "url": urls.url(asset),
        "url_expires_at": urls.expiry(),
        "expires_at": iso(asset.expires_at),
    }
    if asset.job_id is not None:
        body["job_id"] = asset.job_id
    return body


Part = prompt.PromptFile | tuple[str, str]
"""What a node has made: a file, or a text behind its node."""


def _parts(request: Request) -> Mapping[str, Part]:
    """What a request has made, by the ids of assets."""
    parts = [*prompt.files(request), *prompt.texts(request)]
    return {f"{request.id}.{number}": part for number, part in enumerate(parts)}


async def outputs_of(services: Services, request: Request) -> Sequence[Asset]:
    """What a request has made: its files that are still there, and its texts."""
    parts = _parts(request).items()
    assets = await asyncio.gather(*(_output(services, request, *part) for part in parts))
    return [asset for asset in assets if asset is not None]


async def _output(services: Services, request: Request, id_: str, part: Part) -> Asset | None:
    """Part of a request as an asset; None: its file was deleted."""
    made = partial(
        Asset,
        id=id_,
        created_at=request.finished_at or request.created_at,
        job_id=prompt.prompt_id(request),
    )
    if isinstance(part, tuple):
        node, text = part
        kind, size = "text/plain; charset=utf-8", len(text.encode())
        return made(name=f"{node}.txt", media_type=kind, size=size, text=text, node=node)
    elsewhere, size = is_elsewhere(part.key), 0
    if not elsewhere:
        try:
            size = await services.files.storage.size(part.key)
        except ArtifactNotFound:
            return None
    kind = keys.media_type_of(part.name if elsewhere else part.key)
    return made(name=part.name, media_type=kind, size=size, key=part.key, node=part.node)


def _of_upload(file: KeptFile) -> Asset:
    return Asset(
        id=_UPLOADED + base64.urlsafe_b64encode(file.key.encode()).decode().rstrip("="),
        name=keys.file_name(file.key),
        media_type=file.media_type,
        size=file.size,
        created_at=file.created_at,
        key=file.key,
        expires_at=file.expires_at,
    )


_UPLOADED = "upload-"
"""Beginning of the id of an upload; its key follows, since an id has no slashes."""


async def _find_asset(request: HttpRequest, caller: Caller, asset_id: str) -> Asset:
    """``ArtifactNotFound``."""
    services = services_of(request)
    if asset_id.startswith(_UPLOADED):
        key = _upload_key(asset_id)
        if not keys.valid(key):
            raise ArtifactNotFound(NO_ASSET)
        return _of_upload(await services.files.uploads.get_file(caller, key))
    request_id = asset_id.rpartition(".")[0]
    if request_ids.valid(request_id):
        with suppress(RequestNotFound):
            made_by = await services.queue.get(caller.tenant, request_id)
            part = _parts(made_by).get(asset_id)
            own = made_by.endpoint == endpoint_of(request, caller).endpoint.id
            if own and part is not None:
                asset = await _output(services, made_by, asset_id, part)
                if asset is not None:
                    return asset
    raise ArtifactNotFound(NO_ASSET)


def _upload_key(asset_id: str) -> str:
    """Key of an upload; empty if the id is not valid."""
    encoded = asset_id.removeprefix(_UPLOADED)
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return ""


async def resolve_references(
    request: HttpRequest, caller: Caller, graph: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """``graph`` with a name in place of each reference to an asset, and URLs by these names.

    ``InvalidInput`` names the node of a reference that is wrong.
    """
    urls: dict[str, str] = {}
    resolved: dict[str, Any] = {}
    for node, body in graph.items():
        fields = cast("Mapping[str, Any]", body) if isinstance(body, Mapping) else {}
        inputs = fields.get("inputs")
        if not isinstance(inputs, Mapping):
            resolved[node] = body
            continue
        values = dict(cast("Mapping[str, Any]", inputs))
        for name, value in values.items():
            place = f"prompt.{node}.inputs.{name}"
            if _is_reference(value):
                values[name] = await _resolve(request, caller, place, value.get("info"), urls)
            elif _has_reference(value):
                message = "An asset can be the value of an input, but not inside one"
                raise InvalidInput.of_field(place, message)
        resolved[node] = {**fields, "inputs": values}
    return resolved, urls


def _is_reference(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and "__type" in value and value["__type"] == REFERENCE


def _has_reference(value: object) -> bool:
    """Return True if there is a reference anywhere in a value."""
    left = [value]
    while left:
        part = left.pop()
        if _is_reference(part):
            return True
        if isinstance(part, Mapping):
            left += cast("Mapping[str, Any]", part).values()
        elif isinstance(part, list):
            left += cast("list[Any]", part)
    return False


async def _resolve(
    request: HttpRequest, caller: Caller, place: str, info: object, urls: dict[str, str]
) -> str:
    """Name of a reference's asset, whose URL is added to ``urls``."""
    asset_id = cast("Mapping[str, Any]", info).get("id") if isinstance(info, Mapping) else None
    asset = None
    if isinstance(asset_id, str):
        with suppress(ArtifactNotFound):
            asset = await _find_asset(request, caller, asset_id)
    if asset is None or asset.key is None:
        message = "The asset that it refers to is not there, or is no file"
        raise InvalidInput.of_field(place, message, MISSING_ASSET)
    name = f"{asset.job_id}/{asset.name}" if asset.job_id else asset.key
    urls[name] = AssetUrls.of(request, caller).url(asset)
    return name


ASSET_ID = in_path("asset_id", "Id of the asset.")
UPLOAD = Operation(
    "comfyApiUploadAsset",
    "Upload a file for workflows",
    {201: answer("The asset.", ComfyApiAsset)},
    errors=(413, 422, 503, 507),
    content={"multipart/form-data": AssetForm},
    tag=TAG,
    error_format=ERRORS,
)
SHOW = Operation(
    "comfyApiGetAsset",
    "Show a file, with a URL of its content",
    {200: answer("The asset.", ComfyApiAsset)},
    errors=(404, 410),
    parameters=(ASSET_ID,),
    tag=TAG,
    error_format=ERRORS,
)
CONTENT = replace(
    SHOW,
    name="comfyApiGetAssetContent",
    summary="Read a file",
    responses={200: answer("A text.", str, ANY), 302: Answer("The file is at this URL.")},
)
DELETE = replace(
    SHOW,
    name="comfyApiDeleteAsset",
    summary="Delete an upload",
    responses={204: Answer("It is deleted.")},
    errors=(404, 409, 410, 422),
)
