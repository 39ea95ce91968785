"""Hours and days of the week in a time zone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24:00))")


def hours_of(text: str) -> tuple[time, time] | None:
    """Start and end of ``08:00-20:00``; None for an empty text. Midnight as the end is 00:00.

    Raises ``ValueError`` with the expected form.
    """
    if not text:
        return None
    match = _HOURS.fullmatch(text)
    if match is None:
        raise ValueError("hours should be two times of a day, such as 08:00-20:00")
    first, second, third, fourth, midnight = match.groups()
    start = time(int(first), int(second))
    end = time() if midnight else time(int(third), int(fourth))
    if start == end:
        raise ValueError("hours should start and end at different times; without hours: all day")
    return start, end


def days_of(text: str) -> frozenset[int]:
    """Days of ``mon-fri`` or ``sat,sun``, from 0 for Monday; all for an empty text.

    Raises ``ValueError`` with the expected form.
    """
    return frozenset(_days_of(text)) or frozenset(range(7))


def _days_of(text: str) -> Iterator[int]:
    for part in filter(None, text.lower().replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError("days should be such as mon-fri, or sat,sun")
        start, end = DAYS.index(first), DAYS.index(last or first)
        yield from ((start + n) % 7 for n in range((end - start) % 7 + 1))


@cache
def zone_of(name: str) -> ZoneInfo:
    """Time zone by its name. Its file is read once. Raises ``ValueError`` if there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError
        raise ValueError(f"{name} is no time zone; use a name such as Europe/Berlin") from None


def is_within(now: datetime, hours: str, days: str, timezone: str) -> bool:
    """True if ``now`` is in the hours of one of the days, by the clocks of the time zone.

    Hours that end before they start belong to the day on which they start. An hour that clocks skip
    is never, and one that they repeat is twice.
    """
    local = now.astimezone(zone_of(timezone))
    chosen, span = days_of(days), hours_of(hours)
    if span is None:
        return local.weekday() in chosen
    (start, end), at = span, local.time()
    if start <= at and (at < end or end <= start):
        return local.weekday() in chosen
    if at < end < start:
        return (local - timedelta(days=1)).weekday() in chosen
    return False
