"""The tenant's drafts: list, read, delete. Inputs make them and go on from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import NotFound
from serve_app.domain.media.draft import StoredDraft
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import (
    Answer,
    DocumentedRoute,
    Operation,
    answer,
    in_path,
    in_query,
)
from serve_app.ingress.services import request_ids
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.drafts import max_bytes

MAX_LISTED = 1000


class RequestDraft(TypedDict):
    """Draft that has not expired."""

    id: Annotated[str, Field(description="Value of the input field `from_draft`.")]
    endpoint_id: str
    request_id: Annotated[str, Field(description="The request that made it.")]
    seed: int
    step: Annotated[int, Field(description="Steps that it has made.")]
    steps: Annotated[int, Field(description="Steps of the finished output; 0: unknown.")]
    noise: Annotated[float | None, Field(description="Share of noise that is left; null: unknown.")]
    size: Annotated[int, Field(description="Bytes.")]
    created_at: Time
    expires_at: Time


class Drafts(TypedDict):
    drafts: list[RequestDraft]
    bytes: Annotated[int, Field(description="Bytes of all drafts of the tenant.")]
    max_bytes: Annotated[int, Field(description="Bytes at which no more drafts are made.")]


async def listed(request: HttpRequest) -> Response:
    """List the tenant's drafts, newest first."""
    context_of(request).route = "v1.drafts"
    caller = await authenticate(request)
    services, tenant = services_of(request), caller.tenant
    request_id = request.query_params.get("request_id")
    if request_id is not None and not request_ids.valid(request_id):
        raise query.invalid("request_id", "should be the id of a request", request_id)
    found = await services.queue.drafts.newest(
        tenant, MAX_LISTED, endpoints=caller.endpoints, request_id=request_id
    )
    body: Drafts = {
        "drafts": [_draft(each) for each in found],
        "bytes": await services.queue.drafts.used(tenant),
        "max_bytes": max_bytes(services, tenant),
    }
    return json_reply(body)


async def shown(request: HttpRequest) -> Response:
    """Show a draft."""
    context_of(request).route = "v1.draft"
    caller = await authenticate(request)
    draft_id: str = request.path_params["draft_id"]
    found = await services_of(request).queue.drafts.get(caller.tenant, draft_id)
    if found is None:
        raise _unknown(draft_id)
    caller.require_endpoint(found.endpoint)
    return json_reply(_draft(found))


async def delete(request: HttpRequest) -> Response:
    """Delete a draft. Requests that already go on from it still do, and new ones are refused."""
    context_of(request).route = "v1.draft.delete"
    caller = await authenticate(request)
    draft_id: str = request.path_params["draft_id"]
    drafts = services_of(request).queue.drafts
    if caller.endpoints and (found := await drafts.get(caller.tenant, draft_id)) is not None:
        caller.require_endpoint(found.endpoint)
    if not await drafts.delete(caller.tenant, draft_id, actor_of(request)):
        raise _unknown(draft_id)
    return Response(status_code=204)


def _unknown(draft_id: str) -> NotFound:
    return NotFound(f"There is no draft {draft_id[:64]}. It may have expired.")


def _draft(draft: StoredDraft) -> RequestDraft:
    return {
        "id": draft.id,
        "endpoint_id": draft.endpoint,
        "request_id": draft.request_id,
        "seed": draft.seed,
        "step": draft.step,
        "steps": draft.steps,
        "noise": draft.noise,
        "size": draft.size,
        "created_at": draft.created_at.isoformat(),
        "expires_at": draft.expires_at.isoformat(),
    }


DRAFT_ID = in_path("draft_id", "Id of a draft of the key's tenant.")
LIST = Operation(
    "listDrafts",
    "List the tenant's drafts, newest first",
    {200: answer(f"Drafts that have not expired, at most {MAX_LISTED}.", Drafts)},
    errors=(422,),
    parameters=(in_query("request_id", "Only the drafts that this request made."),),
)
SHOW = Operation(
    "getDraft",
    "Show a draft",
    {200: answer("The draft.", RequestDraft)},
    errors=(404,),
    parameters=(DRAFT_ID,),
)
DELETE = Operation(
    "deleteDraft",
    "Delete a draft. Requests that already go on from it still do, and new ones are refused",
    {204: Answer("It is deleted.")},
    errors=(404,),
    parameters=(DRAFT_ID,),
)

ROUTES = [
    DocumentedRoute("/v1/drafts", listed, {"GET": LIST}),
    DocumentedRoute("/v1/drafts/{draft_id}", shown, {"GET": SHOW}),
    DocumentedRoute("/v1/drafts/{draft_id}", delete, {"DELETE": DELETE}),
]
