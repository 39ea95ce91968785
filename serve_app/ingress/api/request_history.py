"""``/v1/models/requests/by-endpoint``: ended requests of an endpoint, in fal's format."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NotRequired
from uuid import UUID

from pydantic import Field, WithJsonSchema
from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from serve_app.domain.request import Redacted, Request
from serve_app.domain.usage import EndedRequest, EndedRequestFilter
from serve_app.ingress.http import query
from serve_app.ingress.http.errors import BY_CODE, iso
from serve_app.ingress.http.json_schema import Time, one_of
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.http.time_buckets import CURSOR, END, START, PageLinks
from serve_app.ingress.http.time_range import time_range
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.failures import answer_for, failure_body
from serve_app.ingress.submission.rendering import final_outcome, rendered_output
from serve_app.tenants.scopes import READ

MAX_PAGE, PAGE = 100, 50
PAYLOADS, ENDED_AT = "payloads", "ended_at"
ENDS = {
    "success": EndedRequest.SUCCESS,
    "error": EndedRequest.SERVER_ERROR,
    "user_error": EndedRequest.CLIENT_ERROR,
}
"""Values of ``?status=``, which are fal's words."""

CLIENT_CODES = [code for code, answer in BY_CODE.items() if 400 <= answer.status < 500]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CLOCK_SKEW = timedelta(days=1)
"""Added to the present time: requests end by the database's clock, which may be ahead of ours."""


Payload = Annotated[Any, WithJsonSchema({"nullable": True, "description": "Null: it was deleted."})]


class EndedRequestItem(TypedDict):
    """Request that has ended."""

    request_id: str
    endpoint_id: str
    sent_at: Time
    started_at: Time | None
    ended_at: Time | None
    status_code: int
    duration: Annotated[
        float | None, Field(description="Seconds of the last attempt; null: it never started.")
    ]
    json_input: NotRequired[Payload]
    json_output: NotRequired[Payload]


class EndedRequestPage(PageLinks):
    items: list[EndedRequestItem]


calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/models/requests/by-endpoint",
    "listEndedRequests",
    "List the tenant's ended requests of an endpoint, the latest end first",
    READ,
    errors=(422,),
    parameters=(
        in_query("endpoint_id", "Id of the endpoint.", required=True),
        START,
        END,
        in_query("status", "Only requests with this end.", one_of(*ENDS)),
        in_query("request_id", "Only this request."),
        in_query("expand", "Add inputs and outputs.", list[Literal["payloads"]]),
        in_query("sort_by", "The only supported order.", Literal["ended_at"]),
        in_query("limit", "1 to 100; default 50.", int),
        CURSOR,
    ),
)
async def list_by_endpoint(call: Call) -> EndedRequestPage:
    request, caller, services = call.request, call.caller, call.services
    limit = query.page_size(request, default=PAGE, most=MAX_PAGE)
    payloads = _wants_payloads(request)
    search = _search(request, caller.tenant, services.clock.now())
    caller.require_endpoint(search.endpoint)
    jobs = await services.queue.ledger.ended_requests(search, limit + 1)
    page = jobs[:limit]
    items = [_item(entry) for entry in page]
    if payloads:
        origin = origin_of(request)
        for item, record in zip(items, page, strict=True):
            item["json_input"] = None if record.forgetting else dict(record.input)
            item["json_output"] = await _output(request, record, origin)
    more = len(jobs) > limit
    return {
        "items": items,
        "next_cursor": _cursor(page[-1]) if more else None,
        "has_more": more,
    }


def _wants_payloads(request: HttpRequest) -> bool:
    expand = query.several(request, "expand")
    for field in expand:
        if field != PAYLOADS:
            raise query.invalid("expand", f"should be {PAYLOADS}", field)
    return bool(expand)


def _search(request: HttpRequest, tenant: str, now: datetime) -> EndedRequestFilter:
    params = request.query_params
    endpoint = query.text(request, "endpoint_id")
    if not endpoint:
        raise query.invalid("endpoint_id", "should be an endpoint's id", "")
    status = params.get("status")
    if status is not None and status not in ENDS:
        raise query.invalid("status", f"should be one of {', '.join(ENDS)}", status)
    request_id = query.request_id(request, "request_id")
    order = params.get("sort_by", ENDED_AT)
    if order != ENDED_AT:
        raise query.invalid("sort_by", f"should be {ENDED_AT}, the only supported order", order)
    span = time_range(request, now)
    return EndedRequestFilter(
        tenant=tenant,
        endpoint=endpoint,
        since=span.start,
        until=span.end if "end" in params else now + CLOCK_SKEW,
        end=ENDS[status] if status else None,
        client_codes=CLIENT_CODES,
        request_id=request_id,
        before=_before(request),
    )


def _cursor(last: Request) -> str:
    """Opaque cursor, the same in a URL: the request's end in microseconds, and its id."""
    return f"{((last.finished_at or EPOCH) - EPOCH) // MICROSECOND}-{last.id}"


def _before(request: HttpRequest) -> tuple[datetime, str] | None:
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return None
    try:
        at, _, id_ = cursor.partition("-")
        return EPOCH + int(at) * MICROSECOND, str(UUID(id_))
    except (ValueError, OverflowError):
        what = "should be the next_cursor of the previous page"
        raise query.invalid("cursor", what, cursor) from None


def _item(request: Request) -> EndedRequestItem:
    failure = request.outcome.failure if request.outcome else None
    took = request.finished_at and request.started_at and request.finished_at - request.started_at
    return {
        "request_id": request.id,
        "endpoint_id": request.endpoint,
        "sent_at": request.created_at.isoformat(),
        "started_at": iso(request.started_at),
        "ended_at": iso(request.finished_at),
        "status_code": answer_for(failure).status if failure else 200,
        "duration": took.total_seconds() if took else None,
    }


async def _output(http: HttpRequest, request: Request, origin: str) -> Any:
    """Output as the result has it, with URLs for files; None if it was deleted."""
    if request.forgetting is Redacted.DONE:
        return None
    failure = final_outcome(request).failure
    if failure is not None:
        return failure_body(failure)
    return await rendered_output(request, services_of(http).files, origin, inline=False)
