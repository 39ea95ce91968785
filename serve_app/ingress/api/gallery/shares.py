"""Share links: a request and its files, read without a key until the link ends."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import NotFound
from serve_app.domain.request import NewShareLink, RequestShare, State
from serve_app.ingress.api.gallery.items import OutputFile, output_files
from serve_app.ingress.http.auth import (
    actor_of,
    authenticate,
    limit_anonymous,
    readable,
    require_requests,
)
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Time, Url
from serve_app.ingress.http.openapi import (
    JSON,
    Answer,
    DocumentedRoute,
    Operation,
    answer,
    in_path,
)
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.route_scopes import NO_KEY
from serve_app.ingress.resources.calls import Call, Calls
from serve_app.ingress.resources.exports import ExportedTenant, Lines
from serve_app.ingress.services.services import services_of
from serve_app.resources.declaration import plain
from serve_app.resources.shares import SHARES
from serve_app.tenants.credentials import digest_of, new_token
from serve_app.tenants.scopes import FILES

MAX_BODY_BYTES = 4096
WEEK_S, MAX_S = 7 * 86400, 366 * 86400
HEADERS = {
    "cache-control": "private, no-store",
    "referrer-policy": "no-referrer",
    "vary": "accept",
}

# Bounded, so that a long text is searched in linear time. A signature or a token is in the query.
_URL = re.compile(
    r"([a-z][a-z0-9+.-]{0,20}://)(?:[^\s/?#]*@)?([^\s?#]*)(?:[?#]\S*)?", re.IGNORECASE
)


class NewShare(BaseModel):
    """Link to be created."""

    model_config = ConfigDict(extra="forbid")

    expires_in_s: float = Field(
        default=WEEK_S, ge=60, le=MAX_S, description="Seconds until it expires. Default: a week."
    )


@dataclass(frozen=True, slots=True)
class CreatedShare(RequestShare):
    """New link. The URL is shown only here."""

    url: Url


class SharedRequest(TypedDict):
    """Request as its link shows it."""

    endpoint_id: str
    state: State
    input: Annotated[
        dict[str, Any], Field(description="Its URLs are without user, query and fragment.")
    ]
    created_at: Time
    finished_at: Time | None
    files: list[OutputFile]


async def create(request: HttpRequest) -> Response:
    """Create a link to a request of the tenant."""
    context_of(request).route = "v1.request.share"
    caller = await authenticate(request)
    new = await read_model(request, NewShare, MAX_BODY_BYTES)
    token = new_token()
    link = await services_of(request).queue.gallery.share(
        caller.tenant,
        request.path_params["request_id"],
        NewShareLink(f"share_{secrets.token_hex(8)}", digest_of(token), new.expires_in_s),
        actor_of(request),
    )
    url = f"{origin_of(request)}/v1/shared/{token}"
    return json_reply(plain(CreatedShare(**asdict(link), url=url)), 201)


calls = Calls(SHARES)


@calls.list("List the tenant's share links, newest first")
async def list_shares(call: Call) -> Sequence[RequestShare]:
    links = await call.services.queue.gallery.shares(call.owner)
    ids = {link.request_id for link in links}
    allowed = await readable(call.request, call.caller, call.owner, ids)
    return [link for link in links if link.request_id in allowed]


@calls.delete()
async def delete_share(call: Call, share_id: str) -> bool:
    gallery = call.services.queue.gallery
    if call.caller.endpoints:
        shares = await gallery.shares(call.owner)
        ids = [share.request_id for share in shares if share.share_id == share_id]
        await require_requests(call.request, call.caller, ids)
    return await gallery.revoke_share(call.owner, share_id, call.actor)


async def export_shares(export: ExportedTenant) -> Lines:
    for share in await export.services.queue.gallery.shares(export.tenant):
        fields = asdict(share)
        yield {"id": fields.pop("share_id"), **fields}


async def show(request: HttpRequest) -> Response:
    """Show the request of a link. It needs no key. Browsers get a page, by a route of their own."""
    context_of(request).route = "v1.shared"
    limit_anonymous(request)
    token: str = request.path_params["token"]
    services = services_of(request)
    share = await services.queue.gallery.find_shared(digest_of(token))
    if share is None or share.request.tenant in services.identity.tenants.disabled:
        raise NotFound("This link does not exist. It may have expired, or its owner revoked it.")
    record, access = share.request, services.files.access
    url = partial(access.url, origin_of(request), tenant=record.tenant, until=share.expires_at)
    body: SharedRequest = {
        "endpoint_id": record.endpoint,
        "state": record.state,
        "input": cast("dict[str, Any]", without_secrets(record.input)),
        "created_at": record.created_at.isoformat(),
        "finished_at": iso(record.finished_at),
        "files": output_files(record.outcome, url),
    }
    return json_reply(body, headers=HEADERS)


def without_secrets(value: object) -> object:
    """A value of an input, at any depth without what may be secret in its URLs: their user, query
    and fragment. They may be signed, or have a token."""
    if isinstance(value, str):
        return _URL.sub(r"\1\2", value)
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value).items()
        return {_URL.sub(r"\1\2", name): without_secrets(inner) for name, inner in fields}
    if isinstance(value, list):
        return [without_secrets(inner) for inner in cast("list[object]", value)]
    return value


CREATE = Operation(
    "createShare",
    "Create a link with which anyone reads a request and its files, without a key",
    {201: answer("The link. Its URL is not shown again.", CreatedShare)},
    errors=(404, 413, 422, 429),
    parameters=(in_path("request_id", "Id of a request of the key's tenant."),),
    body=NewShare,
)
SHOW = Operation(
    "getShared",
    "Show the request of a share link",
    {
        200: Answer(
            "The request; a page that shows it, if `Accept` names `text/html`.",
            {JSON: SharedRequest, "text/html": str},
        )
    },
    errors=(404, 429),
    parameters=(in_path("token", "End of the link's URL."),),
    key=False,
)

ROUTES = [
    DocumentedRoute("/v1/requests/{request_id}/share", create, {"POST": CREATE}, FILES),
    *calls.routes,
    DocumentedRoute("/v1/shared/{token}", show, {"GET": SHOW}, NO_KEY),
]
