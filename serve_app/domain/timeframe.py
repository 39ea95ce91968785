"""Time cut into minutes, hours, days, weeks or months, as a clock on somebody's wall shows them."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum


class Timeframe(StrEnum):
    """How long one piece is. Weeks begin on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    @classmethod
    def fitting(cls, length: timedelta) -> Timeframe:
        """For so long a time, some dozens of pieces: the lengths are those of fal's platform."""
        most = {
            cls.MINUTE: timedelta(hours=2),
            cls.HOUR: timedelta(days=2),
            cls.DAY: timedelta(days=64),
            cls.WEEK: timedelta(days=183),
        }
        return next((each for each, end in most.items() if length < end), cls.MONTH)

    def start(self, at: datetime, zone: tzinfo) -> datetime:
        """Of the piece that has ``at`` in it, in UTC: two times of one zone are compared by what
        its clocks show, which is wrong in the hour that they show twice."""
        local = at.astimezone(zone)
        if self in (Timeframe.MINUTE, Timeframe.HOUR):
            past = timedelta(seconds=local.second, microseconds=local.microsecond)
            if self is Timeframe.HOUR:
                past += timedelta(minutes=local.minute)
            return at.astimezone(UTC) - past
        days = {Timeframe.WEEK: local.weekday(), Timeframe.MONTH: local.day - 1}
        first = local.date() - timedelta(days=days.get(self, 0))
        return datetime.combine(first, time.min, zone).astimezone(UTC)

    def next(self, start: datetime, zone: tzinfo) -> datetime:
        """Start of the piece behind the one that begins at ``start``, in UTC."""
        if self in (Timeframe.MINUTE, Timeframe.HOUR):
            length = timedelta(minutes=1) if self is Timeframe.MINUTE else timedelta(hours=1)
            return self.start(start.astimezone(UTC) + length, zone)
        # Into the next piece, whatever clocks are put forward or back on the way.
        days = {Timeframe.DAY: 1.5, Timeframe.WEEK: 7.5, Timeframe.MONTH: 31.5}[self]
        return self.start(start + timedelta(days=days), zone)
