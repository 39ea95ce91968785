"""``/v1/models/usage``: what a tenant has consumed, in fal's shape.

Nothing is charged here, so prices and costs are zero; ``darkroom`` has what was really spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.catalog import Catalog
from serve_app.domain.ledger import Consumed
from serve_app.domain.timeframe import Timeframe
from serve_app.ingress import query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.time_range import TimeRange, time_range, zone_of

MAX_BUCKETS, BUCKETS = 1000, 100
MAX_ENDPOINTS = 50
TIME_SERIES, SUMMARY = "time_series", "summary"

UNITS = {"image": "megapixels", "video": "seconds", "audio": "seconds"}
"""By the last word of an endpoint's category: of what its replicas count units."""


@dataclass(frozen=True, slots=True)
class _Asked:
    span: TimeRange
    zone: tzinfo
    timeframe: Timeframe
    endpoints: Sequence[str]


async def usage(request: HttpRequest) -> Response:
    """By bucket and endpoint, ``?start=&end=&timeframe=&timezone=&endpoint_id=``, some buckets at a
    time; with ``expand=summary`` over the whole time. Buckets in which nothing ended are empty."""
    exchange_of(request).route = "v1.models.usage"
    caller = await caller_of(request)
    core = core_of(request)
    expand = _expand(request)
    asked = await _asked(request, core.clock.now())
    ledger, body = core.queue.ledger, dict[str, Any]()
    following: datetime | None = None
    if TIME_SERIES in expand:
        limit = query.page_size(request, default=BUCKETS, most=MAX_BUCKETS)
        starts, following = _buckets(asked, _cursor(request, asked), limit)
        edges = [max(starts[0], asked.span.start), *starts[1:], following or asked.span.end]
        found = await ledger.consumed(caller.tenant, edges, asked.endpoints)
        body[TIME_SERIES] = [
            {
                "bucket": start.astimezone(asked.zone).isoformat(),
                "results": _results(core.catalog, (one for one in found if one.bucket == number)),
            }
            for number, start in enumerate(starts)
        ]
    if SUMMARY in expand:
        whole = [asked.span.start, asked.span.end]
        found = await ledger.consumed(caller.tenant, whole, asked.endpoints)
        body[SUMMARY] = _results(core.catalog, found)
    body["next_cursor"] = following and f"{following:%Y-%m-%dT%H:%M:%SZ}"
    body["has_more"] = following is not None
    return json_reply(body)


ROUTES = [Route("/v1/models/usage", usage, methods=["GET"])]


def _expand(request: HttpRequest) -> Sequence[str]:
    expand = query.several(request, "expand") or [TIME_SERIES]
    for given in expand:
        if given not in (TIME_SERIES, SUMMARY):
            what = f"should be {TIME_SERIES} or {SUMMARY}; by which key is not counted here"
            raise query.invalid("expand", what, given)
    return expand


async def _asked(request: HttpRequest, now: datetime) -> _Asked:
    endpoints = query.several(request, "endpoint_id")
    if len(endpoints) > MAX_ENDPOINTS:
        what = f"should name at most {MAX_ENDPOINTS} endpoints"
        raise query.invalid("endpoint_id", what, str(len(endpoints)))
    zone = await asyncio.to_thread(zone_of, request)
    span = time_range(request, now, zone)
    timeframe = _timeframe(request, span)
    if query.yes_no(request, "bound_to_timeframe", default=True):
        end = timeframe.start(span.end, zone)
        whole = span.end if end == span.end else timeframe.next(end, zone)
        span = TimeRange(timeframe.start(span.start, zone), whole)
    return _Asked(span, zone, timeframe, endpoints)


def _timeframe(request: HttpRequest, span: TimeRange) -> Timeframe:
    given = request.query_params.get("timeframe")
    if given is None:
        return Timeframe.fitting(span.end - span.start)
    try:
        return Timeframe(given)
    except ValueError:
        what = f"should be one of {', '.join(Timeframe)}"
        raise query.invalid("timeframe", what, given) from None


def _cursor(request: HttpRequest, asked: _Asked) -> datetime | None:
    given = request.query_params.get("cursor")
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given).astimezone(UTC)
        if asked.span.start < at < asked.span.end and asked.timeframe.start(at, asked.zone) == at:
            return at
    except (ValueError, OverflowError):
        pass
    raise query.invalid("cursor", "should be the next_cursor of the page before", given)


def _buckets(
    asked: _Asked, cursor: datetime | None, limit: int
) -> tuple[list[datetime], datetime | None]:
    """Where they begin, and where the first of the next page does."""
    at = cursor or asked.timeframe.start(asked.span.start, asked.zone)
    starts: list[datetime] = []
    while at < asked.span.end and len(starts) < limit:
        starts.append(at)
        at = asked.timeframe.next(at, asked.zone)
    return starts, at if at < asked.span.end else None


def _results(catalog: Catalog, found: Iterable[Consumed]) -> list[dict[str, Any]]:
    return [
        {
            "endpoint_id": each.endpoint,
            "unit": unit_of(catalog, each.endpoint),
            "quantity": each.usage.units,
            "unit_price": 0.0,
            "cost": 0.0,
            "currency": "USD",
            "darkroom": {
                "requests": each.requests,
                "run_s": each.usage.run_s,
                "steps": each.usage.steps,
            },
        }
        for each in found
    ]


def unit_of(catalog: Catalog, endpoint_id: str) -> str:
    """``units`` of an endpoint of whose kind, or of which, the catalogue says nothing any more."""
    entry = catalog.find(endpoint_id)
    kind = entry.endpoint.category.rpartition("-")[2] if entry else ""
    return UNITS.get(kind, "units")
