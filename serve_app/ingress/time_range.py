"""From when to when, as a caller says it in a query: ``start``, ``end`` and ``timezone``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from starlette.requests import HTTPConnection

from serve_app.ingress import query

LENGTH = timedelta(days=1)
"""Unless told: fal's."""

YEARS = range(1970, 9000)
"""Of which clocks and zones can be reckoned with."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    start: datetime  # aware
    end: datetime  # exclusive


def time_range(request: HTTPConnection, now: datetime, zone: tzinfo = UTC) -> TimeRange:
    """The last day unless told; ``InvalidInput``. What is said without a zone is in ``zone``."""
    end = _moment(request, "end", zone) or now
    start = _moment(request, "start", zone) or end - LENGTH
    if start >= end:
        given = request.query_params.get("start", start.isoformat())
        raise query.invalid("start", f"should be before the end, {end.isoformat()}", given)
    return TimeRange(start, end)


def zone_of(request: HTTPConnection) -> tzinfo:
    """``InvalidInput`` for one that this machine does not know. Reads a file: not on the loop."""
    given = request.query_params.get("timezone", "UTC")
    if given == "UTC":
        return UTC
    try:
        return ZoneInfo(given)
    except (ValueError, KeyError, OSError):  # OSError: a folder of zones
        raise query.invalid(
            "timezone", "should be a name such as Europe/Berlin or UTC", given
        ) from None


def _moment(request: HTTPConnection, name: str, zone: tzinfo) -> datetime | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given)
        if at.year in YEARS:
            return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise query.invalid(name, "should be a date or time, as 2026-01-31T12:00:00Z", given)
