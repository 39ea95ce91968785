"""``/v1/files/sign`` and ``/v1/files/revoke``: signed URLs of private files."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import ArtifactNotFound, InvalidInput
from serve_app.ingress.http.auth import actor_of, authenticate, record_read, require_file
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.file_readers import NO_FILE
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.services.services import services_of
from serve_app.storage import keys
from serve_app.storage.signed_urls import SIGNATURE
from serve_app.tenants.scopes import FILES, OPERATOR, Caller

MAX_BODY_BYTES = 16 * 1024
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


async def sign(request: HttpRequest) -> Response:
    """Sign a URL of a private file. Each call makes a new one."""
    context_of(request).route = "v1.files.sign"
    caller = await authenticate(request)
    wanted = await read_model(request, FileToSign, MAX_BODY_BYTES)
    key = _key("path", wanted.path)
    tenant = await _require_owner(request, caller, key)
    services = services_of(request)
    await services.files.storage.size(key)
    expires_at = None
    if wanted.expires_in is not None:
        expires_at = services.clock.now() + timedelta(seconds=wanted.expires_in)
        expires_at = expires_at.replace(microsecond=0)
    url = services.files.access.sign(origin_of(request), key, expires_at)
    await services.audit.file_signed(actor_of(request), tenant, key, wanted.expires_in)
    body: SignedFileUrl = {"url": url, "expires_at": iso(expires_at)}
    return json_reply(body)


async def revoke(request: HttpRequest) -> Response:
    """Revoke one signed URL, or all that were signed of a file. The file stays."""
    context_of(request).route = "v1.files.revoke"
    caller = await authenticate(request)
    wanted = await read_model(request, UrlsToRevoke, MAX_BODY_BYTES)
    given = wanted.url if wanted.url is not None else wanted.path
    if given is None or (wanted.url is not None and wanted.path is not None):
        raise InvalidInput.of_field(
            "url", "Give `url` to revoke one signed URL, or `path` to revoke all of a file"
        )
    field = "path" if wanted.url is None else "url"
    key, params = _key(field, given), None
    if wanted.url is not None:
        params = dict(parse_qsl(urlsplit(wanted.url).query))
        if SIGNATURE not in params:
            raise InvalidInput.of_field("url", "This URL has no signature. Give `path` instead")
    tenant = await _require_owner(request, caller, key)
    await services_of(request).files.access.revoke(tenant, key, params, actor_of(request))
    body: RevokedUrls = {"revoked": "all" if params is None else "one"}
    return json_reply(body)


def _key(field: str, given: str) -> str:
    """Key of the private file that a URL or a path names. ``InvalidInput``: it names none."""
    path = unquote(urlsplit(given).path)
    key = path.partition(FILES_PATH)[2] if FILES_PATH in path else path
    if not keys.valid(key):
        raise InvalidInput.of_field(field, f"This names no file; it has to begin with {FILES_PATH}")
    if not keys.is_private(key):
        raise InvalidInput.of_field(
            field, "This file is public: anyone who knows its URL reads it without a signature"
        )
    return key


async def _require_owner(request: HttpRequest, caller: Caller, key: str) -> str:
    """Tenant of the file, which is the caller's own unless it is an operator. Raises as if there
    was no file otherwise."""
    rules = await services_of(request).files.access.rules_of(key)
    if rules is None or (rules.tenant != caller.tenant and not caller.may(OPERATOR)):
        raise ArtifactNotFound(NO_FILE)
    if rules.tenant == caller.tenant:
        await require_file(request, caller, key)
    await record_read(request, caller, rules.tenant)
    return rules.tenant


TAG = "files"
SIGN = Operation(
    "signFile",
    "Sign a URL with which anyone reads a private file. Needs the scope `files`",
    {200: answer("The URL.", SignedFileUrl)},
    errors=(404, 413, 422),
    body=FileToSign,
    tag=TAG,
)
REVOKE = Operation(
    "revokeFileUrls",
    "Revoke a signed URL, or all of a file. Needs the scope `files`",
    {200: answer("They are revoked.", RevokedUrls)},
    errors=(403, 404, 413, 422),
    body=UrlsToRevoke,
    tag=TAG,
)
ROUTES = [
    DocumentedRoute("/v1/files/sign", sign, {"POST": SIGN}, FILES),
    DocumentedRoute("/v1/files/revoke", revoke, {"POST": REVOKE}, FILES),
]
