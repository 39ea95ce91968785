"""``/v1/weights``: LoRAs and fine-tunes that a tenant registers. They are fetched and checked in
the background."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, cast
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ConfigDict, Field

from serve_app.domain.errors import ArtifactNotFound, InvalidInput, NotFound, StorageFull
from serve_app.domain.lora import (
    MAX_SCALE,
    WEIGHTS_NAME,
    FileUrl,
    HubFile,
    RegisteredFile,
    parse_lora_path,
)
from serve_app.domain.media.data_uri import is_data_uri
from serve_app.domain.urls import split_url
from serve_app.ingress.resources.calls import FORCE, MAX_LISTED, Call, Calls, ResourceList, Special
from serve_app.ingress.resources.exports import ExportedTenant, Lines
from serve_app.ingress.services.services import Services
from serve_app.ingress.services.weight_jobs import max_weights_bytes
from serve_app.registry.records import NewWeights, TenantWeights, WeightQuota
from serve_app.resources.weights import WEIGHTS, RegisteredWeightFile, RegisteredWeights
from serve_app.settings import NO_LIMITS, Matching
from serve_app.storage.keys import PRIVATE, is_private
from serve_app.storage.keys import valid as valid_key
from serve_app.storage.signed_urls import SIGNATURE
from serve_app.tenants.scopes import OPERATOR

MAX_BODY_BYTES = 64 * 1024
MAX_FILES = 200
MOST_EXPORTED = 10_000  # quotas of bytes allow far fewer

Name = Annotated[
    str,
    Matching(
        WEIGHTS_NAME,
        "1 to 64 lower-case letters, digits, ., _ and -, and begin with a letter or digit",
    ),
    Field(description="Lower case; yours alone."),
]
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


class Publication(BaseModel):
    """Change of who may use weights: all tenants, or their owner only."""

    model_config = ConfigDict(extra="forbid")

    public: bool


calls = Calls(WEIGHTS)
ROUTES = calls.routes


@calls.create(
    "Register a LoRA or a fine-tune, which is fetched and checked in the background",
    NewWeightsBody,
    Special(status=202, max_bytes=MAX_BODY_BYTES, errors=(400, 507)),
)
async def add(call: Call, body: NewWeightsBody) -> RegisteredWeights | None:
    """The answer comes at once; the state says how far they are."""
    services = call.services
    call.caller.require_endpoint(body.base)
    services.catalog.get(body.base)
    endpoint = None if body.endpoint is None else _endpoint_id(call, body.endpoint)
    await services.files.check_disk_for_upload()
    source, kind = await _source(call, body), body.kind or ""
    new = NewWeights(call.owner, body.name, body.base, source, kind, endpoint, body.scale)
    quota = _quota(services, call.owner)
    if problem := await services.weights.add(new, quota, call.actor):
        raise _refusal(problem, new, quota)
    return await show(call, body.name)


@calls.list(
    "List registered weights, latest first, and then those that others published",
    about={"used_bytes": int, "max_bytes": int},
)
async def list_weights(call: Call) -> ResourceList[RegisteredWeights]:
    weights = call.services.weights
    about = {
        "used_bytes": await weights.used_bytes(call.owner),
        "max_bytes": max_weights_bytes(call.services.config, call.owner),
    }
    rows = await weights.page(call.owner, MAX_LISTED)
    return ResourceList([_weights_body(row, call.owner) for row in rows], about)


@calls.show("Show registered weights")
async def show(call: Call, name: str) -> RegisteredWeights | None:
    weights = await call.services.weights.find(call.owner, name)
    if weights is None:
        return None
    if weights.endpoint is not None and weights.state.final:
        await call.services.entries.refresh()  # what is shown as ready can be called at once
    return _weights_body(weights, call.owner)


@calls.delete(special=Special(status=204, parameters=(FORCE,), errors=(400,)))
async def delete(call: Call, name: str) -> bool:
    """Accepted requests that name them may use them for a day. Queued ones of the endpoint fail:
    while it has some, this needs ``?force=true``."""
    weights, caller = call.services.weights, call.caller
    force = call.flag("force")
    if caller.endpoints and (known := await weights.find(call.owner, name)):
        caller.require_endpoint(known.base)
        if known.endpoint is not None:
            caller.require_endpoint(known.endpoint)
    deleted = await weights.remove(call.owner, name, call.actor, force=force)
    await call.services.entries.put_in_force()
    return deleted


@calls.act("public", "Let all tenants use registered weights", Publication, Special(scope=OPERATOR))
async def publish(call: Call, name: str, body: Publication) -> RegisteredWeights | None:
    """Let all tenants use a tenant's weights as ``weights:TENANT/NAME``, or no longer."""
    weights = call.services.weights
    if not await weights.publish(call.owner, name, call.actor, public=body.public):
        raise NotFound(f"{call.owner} has no weights {name[:64]} that are ready.")
    return await show(call, name)


async def export_weights(export: ExportedTenant) -> Lines:
    weights = export.services.weights
    for row in await weights.page(export.tenant, MOST_EXPORTED):
        if row.tenant != export.tenant:
            continue
        files: list[Mapping[str, Any]] = []
        for file in row.files:
            key = await weights.key_of(file.digest)  # None: a base model's are not stored again
            name = None if key is None else export.add_file(key, file.size, row.created_at)
            files.append(asdict(file) | {"file": name})
        yield asdict(row) | {"files": files}


async def _source(call: Call, body: NewWeightsBody) -> dict[str, Any]:
    if (body.source is None) == (body.files is None):
        raise InvalidInput.of_field("source", "Set either `source` or `files`")
    if body.files is not None:
        if not 0 < len(body.files) <= MAX_FILES:
            raise InvalidInput.of_field("files", f"There should be 1 to {MAX_FILES} files")
        keys = {
            path: await _upload(call, url, f"files.{number}")
            for number, (path, url) in enumerate(body.files.items())
        }
        unknown = [
            url for url, key in zip(body.files.values(), keys.values(), strict=True) if not key
        ]
        if unknown:
            raise InvalidInput.of_field("files", f"{unknown[0][:200]} is not an uploaded file")
        return {"files": keys}
    source = body.source or ""
    key = await _upload(call, source, "source")
    if key:
        return {"upload": key}
    try:
        parsed = parse_lora_path(source)
    except ValueError as error:
        raise InvalidInput.of_field("source", str(error)) from None
    match parsed:
        case HubFile(repository, file, revision):
            fields = {"hub": repository, "file": file, "revision": revision}
            return {name: value for name, value in fields.items() if value is not None}
        case FileUrl(url) if not is_data_uri(url):
            return {"url": url}
        case RegisteredFile():
            raise InvalidInput.of_field("source", "These weights are registered already")
        case _:
            raise InvalidInput.of_field("source", "Upload the file, and send its URL")


async def _upload(call: Call, url: str, field: str) -> str:
    """Key of an uploaded file, by its URL; empty for a URL of another server, or one with which the
    owner of a private file lets others read it."""
    parts = split_url(url)
    match = _UPLOAD.fullmatch(unquote(parts.path))
    if match is None or not valid_key(match[1]):
        return ""
    try:
        return (await call.services.files.uploads.get_file(call.caller, match[1])).key
    except ArtifactNotFound:
        if is_private(match[1]) and SIGNATURE in dict(parse_qsl(parts.query)):
            return ""
        message = "You have no such uploaded file. It may have expired: upload it again"
        raise InvalidInput.of_field(field, message) from None


def _endpoint_id(call: Call, name: str) -> str:
    """Id of a private endpoint. ``InvalidInput`` if it could be taken for another one."""
    endpoint = f"{call.owner}/{name}"
    call.caller.require_endpoint(endpoint)
    problem = call.services.entries.why_not_private(endpoint)
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


def _weights_body(weights: TenantWeights, tenant: str) -> RegisteredWeights:
    own = weights.tenant == tenant
    name = weights.name if own else f"{weights.tenant}/{weights.name}"
    return RegisteredWeights(
        name=weights.name,
        tenant=weights.tenant,
        path=f"weights:{name}",
        kind=cast('Literal["lora", "finetune", ""]', weights.kind),
        base=weights.base,
        state=weights.state.value,
        problem=weights.problem or None,
        size=weights.size,
        fetched_bytes=weights.done,
        files=[RegisteredWeightFile(file.path, file.digest, file.size) for file in weights.files],
        source=_source_text(weights.source) if own else None,
        endpoint=weights.endpoint if own else None,
        scale=weights.scale,
        public=weights.public,
        created_at=weights.created_at,
        changed_at=weights.changed_at,
    )


def _source_text(source: Any) -> str:
    if "hub" in source:
        file = f"/{source['file']}" if "file" in source else ""
        revision = f"@{source['revision']}" if "revision" in source else ""
        return f"{source['hub']}{file}{revision}"
    if "files" in source:
        return f"{len(source['files'])} uploaded files"
    return str(source.get("url") or f"/files/{source.get('upload')}")
