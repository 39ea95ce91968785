"""``/v1/weights``: LoRAs and fine-tunes that a tenant registers. They are fetched and checked in
the background."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import ArtifactNotFound, InvalidInput, NotFound, StorageFull
from serve_app.domain.lora import (
    MAX_SCALE,
    WEIGHTS_NAME,
    FileUrl,
    HubFile,
    RegisteredFile,
    parse_lora_path,
)
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate, authenticate_for_tenant
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path, in_query
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.services.weight_jobs import max_weights_bytes
from serve_app.registry.records import NewWeights, TenantWeights, WeightQuota
from serve_app.settings import NO_LIMITS
from serve_app.storage.keys import PRIVATE, is_private
from serve_app.storage.keys import valid as valid_key
from serve_app.storage.signed_urls import SIGNATURE
from serve_app.tenants.scopes import Caller

MAX_BODY_BYTES = 64 * 1024
MAX_LISTED = 1000
MAX_FILES = 200

Name = Annotated[str, Field(pattern=f"^{WEIGHTS_NAME}$", description="Lower case; yours alone.")]
_UPLOAD = re.compile(rf"/files/((?:{PRIVATE}[^/]+/)?u/.+)")


class NewWeightsBody(BaseModel):
    """Weights to register."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    base: str = Field(max_length=200, description="Endpoint whose model they are for.")
    source: str | None = Field(
        default=None,
        max_length=4000,
        description="URL of a file that you uploaded, an https URL, or a repository of the hub: "
        "owner/name or owner/name/file.safetensors, optionally with @revision.",
    )
    files: dict[str, str] | None = Field(
        default=None,
        description="In place of `source`: uploaded files of a pipeline by their path, such as "
        "`transformer/diffusion_pytorch_model.safetensors`.",
    )
    kind: Literal["lora", "finetune"] | None = Field(
        default=None, description="Default: by the names of the tensors."
    )
    endpoint: Name | None = Field(
        default=None,
        description="Serve them by a private endpoint of this name: its id is TENANT/NAME.",
    )
    scale: float = Field(
        default=1.0,
        ge=-MAX_SCALE,
        le=MAX_SCALE,
        allow_inf_nan=False,
        description="Strength of a LoRA in its private endpoint.",
    )


class RegisteredWeightFile(TypedDict):
    path: str
    sha256: str
    size: int


class RegisteredWeights(TypedDict):
    """Registered weights."""

    name: str
    tenant: str
    path: Annotated[str, Field(description="The `path` of a LoRA in a request.")]
    kind: Annotated[
        Literal["lora", "finetune", ""], Field(description="Empty: not known before the check.")
    ]
    base: str
    state: Literal["waiting", "fetching", "checking", "ready", "refused"]
    problem: Annotated[str | None, Field(description="Why they were refused.")]
    size: Annotated[int, Field(description="Bytes that count towards the quota.")]
    fetched_bytes: int
    files: list[RegisteredWeightFile]
    source: Annotated[str | None, Field(description="Null for those of another tenant.")]
    endpoint: Annotated[str | None, Field(description="Private endpoint that serves them.")]
    scale: float
    public: Annotated[bool, Field(description="An operator lets all tenants use them.")]
    created_at: Time
    changed_at: Time


class WeightsPage(TypedDict):
    weights: Annotated[
        list[RegisteredWeights], Field(description="Your own, latest first; then published ones.")
    ]
    used_bytes: int
    max_bytes: int


class Publication(BaseModel):
    """Change of who may use weights: all tenants, or their owner only."""

    model_config = ConfigDict(extra="forbid")

    public: bool


class RemovedWeights(TypedDict):
    name: str


async def added(request: HttpRequest) -> Response:
    """Register weights. The answer comes at once; the state says how far they are."""
    context_of(request).route = "v1.weights.add"
    caller = await authenticate(request)
    services = services_of(request)
    body = await read_model(request, NewWeightsBody, MAX_BODY_BYTES)
    caller.require_endpoint(body.base)
    services.catalog.get(body.base)
    endpoint = None if body.endpoint is None else _endpoint_id(services, caller, body.endpoint)
    await services.files.check_disk_for_upload()
    new = NewWeights(
        caller.tenant,
        body.name,
        body.base,
        await _source(services, caller, body),
        body.kind or "",
        endpoint,
        body.scale,
    )
    quota = _quota(services, caller.tenant)
    problem = await services.weights.add(new, quota, actor_of(request))
    if problem:
        raise _refusal(problem, new, quota)
    return json_reply(_shown(await _found(services, caller.tenant, body.name), caller.tenant), 202)


async def listed(request: HttpRequest) -> Response:
    """List the tenant's registered weights, and those that were published."""
    context_of(request).route = "v1.weights"
    _, tenant = await authenticate_for_tenant(request, "Weights")
    services = services_of(request)
    found = await services.weights.page(tenant, MAX_LISTED)
    body: WeightsPage = {
        "weights": [_shown(each, tenant) for each in found],
        "used_bytes": await services.weights.used(tenant),
        "max_bytes": max_weights_bytes(services.config, tenant),
    }
    return json_reply(body)


async def shown(request: HttpRequest) -> Response:
    context_of(request).route = "v1.weights.one"
    _, tenant = await authenticate_for_tenant(request, "Weights")
    services = services_of(request)
    found = await _found(services, tenant, request.path_params["name"])
    if found.endpoint is not None and found.state.final:
        await services.entries.refresh()  # what is shown as ready can be called at once
    return json_reply(_shown(found, tenant))


async def removed(request: HttpRequest) -> Response:
    """Remove weights, and their private endpoint. Accepted requests that name them may use them for
    a day. Queued ones of the endpoint fail: while it has some, this needs ``?force=true``."""
    context_of(request).route = "v1.weights.remove"
    caller = await authenticate(request)
    services, name = services_of(request), request.path_params["name"]
    force = query.yes_no(request, "force", default=False)
    if caller.endpoints and (found := await services.weights.find(caller.tenant, name)):
        caller.require_endpoint(found.base)
        if found.endpoint is not None:
            caller.require_endpoint(found.endpoint)
    if not await services.weights.remove(caller.tenant, name, actor_of(request), force=force):
        raise _unknown(name)
    await services.entries.refresh()
    body: RemovedWeights = {"name": name}
    return json_reply(body)


async def published(request: HttpRequest) -> Response:
    """Let all tenants use a tenant's weights as ``weights:TENANT/NAME``, or no longer."""
    context_of(request).route = "v1.weights.publish"
    caller = await authenticate(request)
    services, name = services_of(request), request.path_params["name"]
    tenant = query.text(request, "tenant") or caller.tenant
    wanted = await read_model(request, Publication, MAX_BODY_BYTES)
    actor = actor_of(request)
    if not await services.weights.publish(tenant, name, actor, public=wanted.public):
        raise NotFound(f"{tenant} has no weights {name[:64]} that are ready.")
    return json_reply(_shown(await _found(services, tenant, name), tenant))


async def _source(services: Services, caller: Caller, body: NewWeightsBody) -> dict[str, Any]:
    if (body.source is None) == (body.files is None):
        raise InvalidInput.of_field("source", "Set either `source` or `files`")
    if body.files is not None:
        if not 0 < len(body.files) <= MAX_FILES:
            raise InvalidInput.of_field("files", f"There should be 1 to {MAX_FILES} files")
        keys = {
            path: await _upload(services, caller, url, f"files.{number}")
            for number, (path, url) in enumerate(body.files.items())
        }
        unknown = [
            url for url, key in zip(body.files.values(), keys.values(), strict=True) if not key
        ]
        if unknown:
            raise InvalidInput.of_field("files", f"{unknown[0][:200]} is not an uploaded file")
        return {"files": keys}
    source = body.source or ""
    key = await _upload(services, caller, source, "source")
    if key:
        return {"upload": key}
    try:
        parsed = parse_lora_path(source)
    except ValueError as error:
        raise InvalidInput.of_field("source", str(error)) from None
    match parsed:
        case HubFile(repository, file, revision):
            given = {"hub": repository, "file": file, "revision": revision}
            return {name: value for name, value in given.items() if value is not None}
        case FileUrl(url) if url[:5].lower() != "data:":
            return {"url": url}
        case RegisteredFile():
            raise InvalidInput.of_field("source", "These weights are registered already")
        case _:
            raise InvalidInput.of_field("source", "Upload the file, and send its URL")


async def _upload(services: Services, caller: Caller, url: str, field: str) -> str:
    """Key of an uploaded file, by its URL; empty for a URL of another server, or one with which the
    owner of a private file lets others read it."""
    parts = urlsplit(url)
    found = _UPLOAD.fullmatch(unquote(parts.path))
    if found is None or not valid_key(found[1]):
        return ""
    try:
        return (await services.files.uploads.kept(caller, found[1])).key
    except ArtifactNotFound:
        if is_private(found[1]) and SIGNATURE in dict(parse_qsl(parts.query)):
            return ""
        message = "You have no such uploaded file. It may have expired: upload it again"
        raise InvalidInput.of_field(field, message) from None


def _endpoint_id(services: Services, caller: Caller, name: str) -> str:
    """Id of a private endpoint. ``InvalidInput`` if it could be taken for another one."""
    endpoint = f"{caller.tenant}/{name}"
    caller.require_endpoint(endpoint)
    problem = services.entries.why_not_private(endpoint)
    if problem:
        raise InvalidInput.of_field("endpoint", problem)
    return endpoint


def _quota(services: Services, tenant: str) -> WeightQuota:
    config = services.config
    own = config.queue.tenant_limits.get(tenant, NO_LIMITS).max_private_endpoints
    most = config.limits.max_private_endpoints_per_tenant if own is None else own
    return WeightQuota(max_weights_bytes(config, tenant), most)


def _refusal(problem: str, new: NewWeights, quota: WeightQuota) -> Exception:
    match problem:
        case "exists":
            message = f"You have weights {new.name!r} already. Choose another name, or delete them"
            return InvalidInput.of_field("name", message)
        case "unfinished":
            message = f"{quota.max_unfinished} of your weights are being checked. Wait for some"
            return InvalidInput.of_field("name", message)
        case "bytes":
            return StorageFull(
                f"Your weights take all of the {quota.max_bytes} bytes that they may "
                "(DARKROOM_MAX_WEIGHTS_BYTES_PER_TENANT, or max_weights_bytes of the tenant). "
                "Delete some: DELETE /v1/weights/{name}."
            )
        case "endpoints":
            message = (
                f"You may have {quota.max_endpoints} private endpoints "
                "(DARKROOM_MAX_PRIVATE_ENDPOINTS_PER_TENANT, or max_private_endpoints of the "
                "tenant). Delete the weights of one"
            )
            return InvalidInput.of_field("endpoint", message)
        case _:
            message = f"Other weights of yours have the endpoint {new.endpoint}"
            return InvalidInput.of_field("endpoint", message)


async def _found(services: Services, tenant: str, name: str) -> TenantWeights:
    found = await services.weights.find(tenant, name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> NotFound:
    return NotFound(f"You have no weights {name[:64]}. GET /v1/weights lists yours.")


def _shown(weights: TenantWeights, tenant: str) -> RegisteredWeights:
    own = weights.tenant == tenant
    name = weights.name if own else f"{weights.tenant}/{weights.name}"
    return {
        "name": weights.name,
        "tenant": weights.tenant,
        "path": f"weights:{name}",
        "kind": cast('Literal["lora", "finetune", ""]', weights.kind),
        "base": weights.base,
        "state": weights.state.value,
        "problem": weights.problem or None,
        "size": weights.size,
        "fetched_bytes": weights.done,
        "files": [
            {"path": each.path, "sha256": each.digest, "size": each.size} for each in weights.files
        ],
        "source": _source_text(weights.source) if own else None,
        "endpoint": weights.endpoint if own else None,
        "scale": weights.scale,
        "public": weights.public,
        "created_at": weights.created_at.isoformat(),
        "changed_at": weights.changed_at.isoformat(),
    }


def _source_text(source: Any) -> str:
    if "hub" in source:
        file = f"/{source['file']}" if "file" in source else ""
        revision = f"@{source['revision']}" if "revision" in source else ""
        return f"{source['hub']}{file}{revision}"
    if "files" in source:
        return f"{len(source['files'])} uploaded files"
    return str(source.get("url") or f"/files/{source.get('upload')}")


_NAME = in_path("name", "Name of the weights.")
_TENANT = in_query("tenant", "Another tenant; needs the scope `operator`.", str)

ADD = Operation(
    "addWeights",
    "Register a LoRA or a fine-tune, which is fetched and checked in the background",
    {202: answer("The weights; `state` says how far they are.", RegisteredWeights)},
    errors=(400, 403, 404, 413, 422, 507),
    body=NewWeightsBody,
)
LIST = Operation(
    "listWeights",
    "List registered weights",
    {200: answer("The weights.", WeightsPage)},
    errors=(403,),
    parameters=(_TENANT,),
)
SHOW = Operation(
    "getWeights",
    "Show registered weights",
    {200: answer("The weights.", RegisteredWeights)},
    errors=(403, 404),
    parameters=(_NAME, _TENANT),
)
REMOVE = Operation(
    "removeWeights",
    "Remove registered weights, and their private endpoint",
    {200: answer("They are removed.", RemovedWeights)},
    errors=(400, 403, 404, 422),
    parameters=(
        _NAME,
        in_query("force", "`true`: also while the endpoint has queued or running requests.", bool),
    ),
)
PUBLISH = Operation(
    "publishWeights",
    "Let all tenants use registered weights. Needs the scope `operator`",
    {200: answer("The weights.", RegisteredWeights)},
    errors=(403, 404, 413, 422),
    parameters=(_NAME, _TENANT),
    body=Publication,
)

ROUTES = [
    DocumentedRoute("/v1/weights", listed, {"GET": LIST}),
    DocumentedRoute("/v1/weights", added, {"POST": ADD}),
    DocumentedRoute("/v1/weights/{name}", shown, {"GET": SHOW}),
    DocumentedRoute("/v1/weights/{name}", removed, {"DELETE": REMOVE}),
    DocumentedRoute("/v1/weights/{name}/public", published, {"PUT": PUBLISH}),
]
