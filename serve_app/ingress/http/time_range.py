"""Time range of a query: ``start``, ``end`` and ``timezone``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from starlette.requests import HTTPConnection

from serve_app.ingress.http.query import invalid

LENGTH = timedelta(days=1)
"""Default length of a range, as at fal."""

YEARS = range(1970, 9000)
"""Years in which arithmetic with clocks and time zones is safe."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    start: datetime  # aware
    end: datetime  # exclusive


def time_range(
    request: HTTPConnection, now: datetime, zone: tzinfo = UTC, length: timedelta = LENGTH
) -> TimeRange:
    """Read the range; default: the last ``length``. A time without a zone is in ``zone``.

    ``InvalidInput`` names the wrong parameter.
    """
    end = _moment(request, "end", zone) or now
    start = _moment(request, "start", zone) or end - length
    if start >= end:
        text = request.query_params.get("start", start.isoformat())
        raise invalid("start", f"should be before the end, {end.isoformat()}", text)
    return TimeRange(start, end)


def zone_of(request: HTTPConnection) -> tzinfo:
    """Read the time zone. ``InvalidInput``: this machine does not know it. Reading a zone's file
    blocks."""
    name = request.query_params.get("timezone", "UTC")
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):  # OSError: a folder of zones
        raise invalid("timezone", "should be a name such as Europe/Berlin or UTC", name) from None


def _moment(request: HTTPConnection, name: str, zone: tzinfo) -> datetime | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        if at.year in YEARS:
            return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise invalid(name, "should be a date or time, such as 2026-01-31T12:00:00Z", text)
