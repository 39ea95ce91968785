"""``/v1/files/sign`` and ``/v1/files/revoke``: signed URLs of private files."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from serve_app.domain.errors import ArtifactNotFound, InvalidInput
from serve_app.domain.urls import split_url
from serve_app.ingress.http.auth import record_read, require_file
from serve_app.ingress.http.errors import iso
from serve_app.ingress.http.file_readers import NO_FILE
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.storage import keys
from serve_app.storage.signed_urls import SIGNATURE
from serve_app.tenants.scopes import FILES, OPERATOR

MAX_VALID_S = 100 * 366 * 86400
FILES_PATH = "/files/"

PATH = "URL of the file, with or without a signature; or its path, which begins with `/files/`."


class FileToSign(BaseModel):
    """File that gets a signed URL."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(max_length=4096, description=PATH)
    expires_in: float | None = Field(
        default=None,
        ge=1,
        le=MAX_VALID_S,
        description="Seconds. Null: it is valid as long as the file exists.",
    )


class UrlsToRevoke(BaseModel):
    """One signed URL, or all of a file."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = Field(default=None, max_length=4096, description="The only URL to revoke.")
    path: str | None = Field(
        default=None, max_length=4096, description=f"Revoke all URLs of this file. {PATH}"
    )


class SignedFileUrl(TypedDict):
    url: Annotated[str, Field(description="Anyone who has it reads the file.")]
    expires_at: Annotated[Time | None, Field(description="Null: it does not expire.")]


class RevokedUrls(TypedDict):
    revoked: Annotated[
        Literal["one", "all"],
        Field(description="In force everywhere within five seconds. `all`: those signed so far."),
    ]


TAG = "files"
calls = JsonCalls()
ROUTES = calls.routes


@calls.send(
    "/v1/files/sign",
    "signFile",
    "Sign a URL with which anyone reads a private file",
    FileToSign,
    FILES,
    errors=(404,),
    tag=TAG,
)
async def sign(call: Call, body: FileToSign) -> SignedFileUrl:
    """Each call makes a new one."""
    key = _key("path", body.path)
    tenant = await _require_owner(call, key)
    services = call.services
    await services.files.storage.size(key)
    expires_at = None
    if body.expires_in is not None:
        expires_at = services.clock.now() + timedelta(seconds=body.expires_in)
        expires_at = expires_at.replace(microsecond=0)
    url = services.files.access.sign(origin_of(call.request), key, expires_at)
    await services.audit.record_signed_url(call.actor, tenant, key, body.expires_in)
    return {"url": url, "expires_at": iso(expires_at)}


@calls.send(
    "/v1/files/revoke",
    "revokeFileUrls",
    "Revoke a signed URL, or all of a file",
    UrlsToRevoke,
    FILES,
    errors=(404,),
    tag=TAG,
)
async def revoke(call: Call, body: UrlsToRevoke) -> RevokedUrls:
    """The file stays."""
    target = body.url if body.url is not None else body.path
    if target is None or (body.url is not None and body.path is not None):
        raise InvalidInput.of_field(
            "url", "Give `url` to revoke one signed URL, or `path` to revoke all of a file"
        )
    field = "path" if body.url is None else "url"
    key, params = _key(field, target), None
    if body.url is not None:
        params = dict(parse_qsl(split_url(body.url).query))
        if SIGNATURE not in params:
            raise InvalidInput.of_field("url", "This URL has no signature. Give `path` instead")
    tenant = await _require_owner(call, key)
    await call.services.files.access.revoke(tenant, key, params, call.actor)
    return {"revoked": "all" if params is None else "one"}


def _key(field: str, target: str) -> str:
    """Key of the private file that a URL or a path names. ``InvalidInput``: it names none."""
    path = unquote(split_url(target).path)
    key = path.partition(FILES_PATH)[2] if FILES_PATH in path else path
    if not keys.valid(key):
        raise InvalidInput.of_field(field, f"This names no file; it has to begin with {FILES_PATH}")
    if not keys.is_private(key):
        raise InvalidInput.of_field(
            field, "This file is public: anyone who knows its URL reads it without a signature"
        )
    return key


async def _require_owner(call: Call, key: str) -> str:
    """Tenant of the file, which is the caller's own unless it is an operator. Raises as if there
    was no file otherwise."""
    request, caller = call.request, call.caller
    rules = await call.services.files.access.rules_of(key)
    if rules is None or (rules.tenant != caller.tenant and not caller.may(OPERATOR)):
        raise ArtifactNotFound(NO_FILE)
    if rules.tenant == caller.tenant:
        await require_file(request, caller, key)
    await record_read(request, caller, rules.tenant)
    return rules.tenant
