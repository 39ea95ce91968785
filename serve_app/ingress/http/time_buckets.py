"""Time buckets of selected endpoints, from the parameters of a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from serve_app.domain.timeframe import Timeframe
from serve_app.ingress.http import query
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.http.time_range import TimeRange, time_range, zone_of
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.tenants.scopes import Caller

MAX_BUCKETS, BUCKETS = 1000, 100
MAX_ENDPOINTS = 50
TIME_SERIES, SUMMARY = "time_series", "summary"


@dataclass(frozen=True, slots=True)
class BucketQuery:
    """Parameters ``?start=&end=&timeframe=&timezone=&endpoint_id=``."""

    span: TimeRange
    zone: tzinfo
    timeframe: Timeframe
    endpoints: Sequence[str]


class PageLinks(TypedDict):
    """Link to the next page, as at fal."""

    next_cursor: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class BucketPage:
    """Buckets of one response."""

    starts: Sequence[datetime]
    edges: Sequence[datetime]  # one more than there are buckets
    following: datetime | None  # start of the first bucket of the next page

    @property
    def links(self) -> PageLinks:
        at = self.following
        cursor = f"{at:%Y-%m-%dT%H:%M:%SZ}" if at else None
        return {"next_cursor": cursor, "has_more": at is not None}


LAST = BucketPage((), (), None)
"""Page of a response without buckets."""


CURSOR = in_query("cursor", "`next_cursor` of the previous page.")
START = in_query("start", "A date or a time. Default: one day before the end.")
END = in_query("end", "A date or a time, exclusive. Default: now.")
PARAMETERS = (
    START,
    END,
    in_query("timeframe", "Length of a bucket. Default: by the length of the time.", Timeframe),
    in_query("timezone", "Time zone of days and months. Default: UTC."),
    in_query("bound_to_timeframe", "Extend the time to whole buckets. Default: true.", bool),
    in_query("limit", "Buckets in a page, 1 to 1000; default 100.", int),
    CURSOR,
)
"""Parameters of a query, except for the endpoints."""


def endpoints_of(
    request: HttpRequest, caller: Caller, allowed: Sequence[str] = ()
) -> Sequence[str]:
    """Read the endpoints; none: all. ``allowed``: the only ones that the caller may read, if it is
    limited. ``Forbidden``: it asks for others. ``InvalidInput``: more than ``MAX_ENDPOINTS``."""
    endpoints = query.several(request, "endpoint_id")
    if len(endpoints) > MAX_ENDPOINTS:
        what = f"should name at most {MAX_ENDPOINTS} endpoints"
        raise query.invalid("endpoint_id", what, str(len(endpoints)))
    for endpoint in endpoints:
        caller.require_endpoint(endpoint)
    return endpoints or allowed


async def asked_of(
    request: HttpRequest, now: datetime, caller: Caller, allowed: Sequence[str] = ()
) -> BucketQuery:
    """Read the parameters. ``allowed``: as in ``endpoints_of``. ``InvalidInput`` names the wrong
    one."""
    endpoints = endpoints_of(request, caller, allowed)
    zone = await in_cpu_thread(zone_of, request)
    span = time_range(request, now, zone)
    timeframe = _timeframe(request, span)
    if query.yes_no(request, "bound_to_timeframe", default=True):
        end = timeframe.start(span.end, zone)
        whole = span.end if end == span.end else timeframe.next(end, zone)
        span = TimeRange(timeframe.start(span.start, zone), whole)
    return BucketQuery(span, zone, timeframe, endpoints)


def page_of(request: HttpRequest, bucket_query: BucketQuery) -> BucketPage:
    """Read ``?limit=&cursor=`` and build the page."""
    limit = query.page_size(request, default=BUCKETS, most=MAX_BUCKETS)
    starts, following = _buckets(bucket_query, _cursor(request, bucket_query), limit)
    edges = [
        max(starts[0], bucket_query.span.start),
        *starts[1:],
        following or bucket_query.span.end,
    ]
    return BucketPage(starts, edges, following)


def _timeframe(request: HttpRequest, span: TimeRange) -> Timeframe:
    text = request.query_params.get("timeframe")
    if text is None:
        return Timeframe.fitting(span.end - span.start)
    try:
        return Timeframe(text)
    except ValueError:
        what = f"should be one of {', '.join(Timeframe)}"
        raise query.invalid("timeframe", what, text) from None


def _cursor(request: HttpRequest, bucket_query: BucketQuery) -> datetime | None:
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return None
    try:
        at = datetime.fromisoformat(cursor).astimezone(UTC)
        if (
            bucket_query.span.start < at < bucket_query.span.end
            and bucket_query.timeframe.start(at, bucket_query.zone) == at
        ):
            return at
    except (ValueError, OverflowError):
        pass
    raise query.invalid("cursor", "should be the next_cursor of the previous page", cursor)


def _buckets(
    bucket_query: BucketQuery, cursor: datetime | None, limit: int
) -> tuple[list[datetime], datetime | None]:
    """Starts of the page's buckets, and of the first bucket of the next page."""
    at = cursor or bucket_query.timeframe.start(bucket_query.span.start, bucket_query.zone)
    starts: list[datetime] = []
    while at < bucket_query.span.end and len(starts) < limit:
        starts.append(at)
        at = bucket_query.timeframe.next(at, bucket_query.zone)
    return starts, at if at < bucket_query.span.end else None
