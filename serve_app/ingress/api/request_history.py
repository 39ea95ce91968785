"""``/v1/models/requests/by-endpoint``: a tenant's ended requests of an endpoint, in fal's shape."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.ledger import End, EndedSearch
from serve_app.domain.request import Forgetting, Request
from serve_app.ingress import ids, query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.errors import BY_CODE
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.fal.failure import answer_for, failure_body
from serve_app.ingress.fal.output import outcome_of, rendered_output
from serve_app.ingress.origin import origin_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.time_range import time_range

MAX_PAGE, PAGE = 100, 50
PAYLOADS, ENDED_AT = "payloads", "ended_at"
ENDS = {"success": End.SUCCESS, "error": End.SERVER_ERROR, "user_error": End.CLIENT_ERROR}
"""By fal's words for them."""

CLIENT_CODES = [code for code, answer in BY_CODE.items() if 400 <= answer.status < 500]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SLACK = timedelta(days=1)
"""What has just ended did so by the database's clock, which is not ours."""


async def by_endpoint(request: HttpRequest) -> Response:
    """The latest end first: ``?endpoint_id=&start=&end=&status=&request_id=&limit=&cursor=``;
    ``expand=payloads`` adds inputs and outputs."""
    exchange_of(request).route = "v1.models.requests"
    caller = await caller_of(request)
    core = core_of(request)
    limit = query.page_size(request, default=PAGE, most=MAX_PAGE)
    payloads = _wants_payloads(request)
    search = _search(request, caller.tenant, core.clock.now())
    found = await core.queue.ledger.ended(search, limit + 1)
    page = found[:limit]
    items = [_item(each) for each in page]
    if payloads:
        origin = origin_of(request)
        for item, each in zip(items, page, strict=True):
            item["json_input"] = None if each.forgetting else dict(each.input)
            item["json_output"] = await _output(request, each, origin)
    more = len(found) > limit
    body = {"items": items, "next_cursor": _cursor(page[-1]) if more else None, "has_more": more}
    return json_reply(body)


ROUTES = [Route("/v1/models/requests/by-endpoint", by_endpoint, methods=["GET"])]


def _wants_payloads(request: HttpRequest) -> bool:
    expand = query.several(request, "expand")
    for given in expand:
        if given != PAYLOADS:
            raise query.invalid("expand", f"should be {PAYLOADS}", given)
    return bool(expand)


def _search(request: HttpRequest, tenant: str, now: datetime) -> EndedSearch:
    asked = request.query_params
    endpoint = query.text(request, "endpoint_id")
    if not endpoint:
        raise query.invalid("endpoint_id", "should be an endpoint's id", "")
    status = asked.get("status")
    if status is not None and status not in ENDS:
        raise query.invalid("status", f"should be one of {', '.join(ENDS)}", status)
    request_id = asked.get("request_id")
    if request_id is not None and not ids.valid(request_id):
        raise query.invalid("request_id", "should be the id of a request", request_id)
    order = asked.get("sort_by", ENDED_AT)
    if order != ENDED_AT:
        raise query.invalid("sort_by", f"should be {ENDED_AT}, the only order here", order)
    span = time_range(request, now)
    return EndedSearch(
        tenant=tenant,
        endpoint=endpoint,
        since=span.start,
        until=span.end if "end" in asked else now + SLACK,
        end=ENDS[status] if status else None,
        client_codes=CLIENT_CODES,
        request_id=request_id,
        before=_before(request),
    )


def _cursor(last: Request) -> str:
    """Opaque, and the same in a URL: its end in microseconds, and its id."""
    return f"{((last.finished_at or EPOCH) - EPOCH) // MICROSECOND}-{last.id}"


def _before(request: HttpRequest) -> tuple[datetime, str] | None:
    given = request.query_params.get("cursor")
    if given is None:
        return None
    try:
        at, _, id_ = given.partition("-")
        return EPOCH + int(at) * MICROSECOND, str(UUID(id_))
    except (ValueError, OverflowError):
        what = "should be the next_cursor of the page before"
        raise query.invalid("cursor", what, given) from None


def _item(request: Request) -> dict[str, Any]:
    failure = request.outcome.failure if request.outcome else None
    took = request.finished_at and request.started_at and request.finished_at - request.started_at
    return {
        "request_id": request.id,
        "endpoint_id": request.endpoint,
        "sent_at": request.created_at.isoformat(),
        "started_at": request.started_at and request.started_at.isoformat(),
        "ended_at": request.finished_at and request.finished_at.isoformat(),
        "status_code": answer_for(failure).status if failure else 200,
        "duration": took.total_seconds() if took else None,
    }


async def _output(http: HttpRequest, request: Request, origin: str) -> Any:
    """As the result would have it, with URLs for files; None: it is forgotten."""
    if request.forgetting is Forgetting.DONE:
        return None
    failure = outcome_of(request).failure
    if failure is not None:
        return failure_body(failure)
    return await rendered_output(request, core_of(http).storage, origin, inline=False)
