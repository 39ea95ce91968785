"""``/v1/audit``: the audit log, by pages and as an export whose chain of hashes can be checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from typing_extensions import TypedDict

from serve_app.domain.audit.acts import Act
from serve_app.domain.errors import Unavailable
from serve_app.domain.operations import Operations
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import ALL_TENANTS, authenticate, record_read
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_query
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.services import services_of
from serve_app.tenants.scopes import OPERATOR, TENANT_ADMIN

MAX_PAGE = 500
EXPORT_PAGE = 500
NDJSON = "application/x-ndjson"


class AuditEntry(TypedDict):
    """Act of a caller. `actor` is the id of its key, `address` the source of the call; both are
    empty if they are not known."""

    id: int
    at: Time
    actor: str
    address: str
    action: str
    subject: str
    detail: dict[str, Any]


class AuditPage(TypedDict):
    acts: list[AuditEntry]
    next_before: int | None


class SealedEntry(AuditEntry):
    """Line of an export: an entry in its place of the chain."""

    sequence: Annotated[int, Field(description="From 1, without gaps.")]
    tenant: Annotated[str, Field(description="Whom the act is about. Empty: no tenant.")]
    previous: Annotated[str, Field(description="Hash of the entry before.")]
    hash: Annotated[
        str,
        Field(
            description="SHA-256 of the other fields as JSON with sorted names, without spaces, in "
            "ASCII."
        ),
    ]


class ChainEnd(TypedDict):
    """Last entry of the chain. `sequence` is 0 while there is none."""

    sequence: int
    hash: str | None


calls = JsonCalls()


@calls.call(
    "/v1/audit",
    "listActs",
    "List the audit log, newest first. `operator` lists the acts of all tenants",
    TENANT_ADMIN,
    errors=(422,),
    parameters=(
        in_query("limit", "1 to 500; default 50.", int),
        in_query("before", "`next_before` of the previous page.", int),
        in_query("tenant", "Only the acts about this tenant."),
    ),
)
async def list_acts(call: Call) -> AuditPage:
    request, caller = call.request, call.caller
    tenant = query.text(request, "tenant")
    if not caller.may(OPERATOR):
        tenant = tenant or caller.tenant
        caller.require_tenant(tenant, "Acts")
    elif tenant:
        await record_read(request, caller, tenant)
    limit = query.page_size(request, default=50, most=MAX_PAGE)
    before = query.whole_number(request, "before", default=0, most=999_999_999_999)
    operations = call.services.queue.operations
    page = await operations.audit(before or None, limit + 1, tenant or None)
    if not tenant:  # after the page, so that it does not begin with its own read
        await record_read(request, caller, ALL_TENANTS)
    shown = page[:limit]
    return {
        "acts": [entry_of(act) for act in shown],
        "next_before": shown[-1].id if len(page) > limit else None,
    }


async def export_acts(request: HttpRequest) -> Response:
    """Export the chain from its first entry, or after ``?after=``, one entry a line."""
    context_of(request).route = "v1.audit.export"
    caller = await authenticate(request)
    await record_read(request, caller, ALL_TENANTS)
    after = query.whole_number(request, "after", default=0, most=999_999_999_999)
    headers = {
        "content-disposition": 'attachment; filename="darkroom-audit.jsonl"',
        "cache-control": "private, no-store",
    }
    lines = _lines(services_of(request).queue.operations, after)
    return StreamingResponse(lines, headers=headers, media_type=NDJSON)


@calls.call(
    "/v1/audit/head",
    "getAuditHead",
    "Show the last place and hash of the audit log's chain",
    OPERATOR,
)
async def show_end(call: Call) -> ChainEnd:
    """All acts are sealed before."""
    last = await call.services.queue.operations.seal_audit()
    return {
        "sequence": 0 if last is None else last.sequence,
        "hash": None if last is None else last.hash,
    }


async def _lines(operations: Operations, after: int) -> AsyncIterator[str]:
    """Lines of the chain. Acts are sealed once its first page is read: so it has the checkpoint of
    what was deleted before that page."""
    page = await operations.audit_chain(after, EXPORT_PAGE)
    await operations.seal_audit()
    if len(page) < EXPORT_PAGE:
        last = page[-1].sequence if page else after
        page = [*page, *await operations.audit_chain(last, EXPORT_PAGE)]
    while page:
        yield "".join(entry.line for entry in page)
        after = page[-1].sequence
        page = await operations.audit_chain(after, EXPORT_PAGE)
        if page and page[0].sequence != after + 1:
            raise Unavailable("Entries were deleted by age during the export. Export again.")


def entry_of(act: Act) -> AuditEntry:
    return {
        "id": act.id,
        "at": act.at.isoformat(),
        "actor": act.actor,
        "address": act.address,
        "action": act.action,
        "subject": act.subject,
        "detail": dict(act.detail),
    }


EXPORT = Operation(
    "exportActs",
    "Export the audit log as a chain of hashes, oldest first. Needs the scope `operator`",
    {200: answer("JSON, one entry a line.", SealedEntry, NDJSON)},
    errors=(403, 422),
    parameters=(in_query("after", "Only the entries after this place of the chain.", int),),
)

ROUTES = [
    *calls.routes,
    DocumentedRoute("/v1/audit/export", export_acts, {"GET": EXPORT}, OPERATOR),
]
