"""The tenant's drafts: list, read, delete. Inputs make them and go on from them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from serve_app.domain.media.draft import StoredDraft
from serve_app.ingress.http import query
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.resources.calls import MAX_LISTED, Call, Calls, ResourceList
from serve_app.ingress.resources.exports import ExportedTenant, Lines
from serve_app.ingress.services import request_ids
from serve_app.ingress.submission.drafts import max_bytes
from serve_app.resources.drafts import DRAFTS, RequestDraft

calls = Calls(DRAFTS)
ROUTES = calls.routes


@calls.list(
    "List the tenant's drafts, newest first",
    about={"bytes": int, "max_bytes": int},
    parameters=(in_query("request_id", "Only the drafts that this request made."),),
)
async def list_drafts(call: Call) -> ResourceList[RequestDraft]:
    """``bytes``: of all drafts of the tenant. ``max_bytes``: at which no more are made."""
    request_id = query.text(call.request, "request_id")
    if request_id is not None and not request_ids.valid(request_id):
        raise query.invalid("request_id", "should be the id of a request", request_id)
    drafts = call.services.queue.drafts
    newest = await drafts.newest(
        call.owner, MAX_LISTED, endpoints=call.caller.endpoints, request_id=request_id
    )
    about = {
        "bytes": await drafts.used_bytes(call.owner),
        "max_bytes": max_bytes(call.services, call.owner),
    }
    return ResourceList([_draft_body(draft) for draft in newest], about)


@calls.show("Show a draft")
async def show_draft(call: Call, draft_id: str) -> RequestDraft | None:
    draft = await call.services.queue.drafts.get(call.owner, draft_id)
    if draft is None:
        return None
    call.caller.require_endpoint(draft.endpoint)
    return _draft_body(draft)


@calls.delete()
async def delete_draft(call: Call, draft_id: str) -> bool:
    if call.caller.endpoints and await show_draft(call, draft_id) is None:
        return False
    return await call.services.queue.drafts.delete(call.owner, draft_id, call.actor)


async def export_drafts(export: ExportedTenant) -> Lines:
    before: tuple[datetime, str] | None = None
    drafts = export.services.queue.drafts
    while page := await drafts.newest(export.tenant, MAX_LISTED, before):
        for draft in page:
            file = export.add_file(draft.key, draft.size, draft.created_at)
            yield asdict(draft) | {"file": file}
        before = page[-1].created_at, page[-1].id


def _draft_body(draft: StoredDraft) -> RequestDraft:
    return RequestDraft(
        draft.id,
        draft.endpoint,
        draft.request_id,
        draft.seed,
        draft.step,
        draft.steps,
        draft.noise,
        draft.size,
        draft.created_at,
        draft.expires_at,
    )
