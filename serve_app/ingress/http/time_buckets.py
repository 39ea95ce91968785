"""Some buckets of time at once, of some endpoints, as a caller asks for them in a query."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from starlette.requests import Request as HttpRequest

from serve_app.domain.timeframe import Timeframe
from serve_app.ingress import query
from serve_app.ingress.time_range import TimeRange, time_range, zone_of

MAX_BUCKETS, BUCKETS = 1000, 100
MAX_ENDPOINTS = 50
TIME_SERIES, SUMMARY = "time_series", "summary"


@dataclass(frozen=True, slots=True)
class Asked:
    """``?start=&end=&timeframe=&timezone=&endpoint_id=``."""

    span: TimeRange
    zone: tzinfo
    timeframe: Timeframe
    endpoints: Sequence[str]


@dataclass(frozen=True, slots=True)
class Page:
    """Those of one answer."""

    starts: Sequence[datetime]
    edges: Sequence[datetime]  # one more than there are buckets
    following: datetime | None  # where the first of the next page begins

    @property
    def links(self) -> dict[str, object]:
        """fal's, to the next page."""
        at = self.following
        return {"next_cursor": at and f"{at:%Y-%m-%dT%H:%M:%SZ}", "has_more": at is not None}


LAST = Page((), (), None)
"""Of an answer without buckets."""


async def asked_of(request: HttpRequest, now: datetime) -> Asked:
    """``InvalidInput`` names what is wrong."""
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
    return Asked(span, zone, timeframe, endpoints)


def page_of(request: HttpRequest, asked: Asked) -> Page:
    """``?limit=&cursor=``."""
    limit = query.page_size(request, default=BUCKETS, most=MAX_BUCKETS)
    starts, following = _buckets(asked, _cursor(request, asked), limit)
    edges = [max(starts[0], asked.span.start), *starts[1:], following or asked.span.end]
    return Page(starts, edges, following)


def _timeframe(request: HttpRequest, span: TimeRange) -> Timeframe:
    given = request.query_params.get("timeframe")
    if given is None:
        return Timeframe.fitting(span.end - span.start)
    try:
        return Timeframe(given)
    except ValueError:
        what = f"should be one of {', '.join(Timeframe)}"
        raise query.invalid("timeframe", what, given) from None


def _cursor(request: HttpRequest, asked: Asked) -> datetime | None:
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
    asked: Asked, cursor: datetime | None, limit: int
) -> tuple[list[datetime], datetime | None]:
    """Where they begin, and where the first of the next page does."""
    at = cursor or asked.timeframe.start(asked.span.start, asked.zone)
    starts: list[datetime] = []
    while at < asked.span.end and len(starts) < limit:
        starts.append(at)
        at = asked.timeframe.next(at, asked.zone)
    return starts, at if at < asked.span.end else None
