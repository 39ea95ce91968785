"""Time buckets of a minute, hour, day, week or month in a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum


class Timeframe(StrEnum):
    """Length of a bucket. Weeks begin on Monday."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    @classmethod
    def fitting(cls, length: timedelta) -> Timeframe:
        """Bucket length that divides ``length`` into some dozens. Thresholds are fal's."""
        most = {
            cls.MINUTE: timedelta(hours=2),
            cls.HOUR: timedelta(days=2),
            cls.DAY: timedelta(days=64),
            cls.WEEK: timedelta(days=183),
        }
        return next((timeframe for timeframe, end in most.items() if length < end), cls.MONTH)

    def start(self, at: datetime, zone: tzinfo) -> datetime:
        """Start of the bucket that contains ``at``, in UTC: Python compares times of one zone by
        their wall-clock digits, which is wrong in the hour that occurs twice."""
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
        """Start of the bucket after the one that begins at ``start``, in UTC."""
        if self in (Timeframe.MINUTE, Timeframe.HOUR):
            length = timedelta(minutes=1) if self is Timeframe.MINUTE else timedelta(hours=1)
            return self.start(start.astimezone(UTC) + length, zone)
        # A time inside the next bucket, even if the clocks change in between.
        days = {Timeframe.DAY: 1.5, Timeframe.WEEK: 7.5, Timeframe.MONTH: 31.5}[self]
        return self.start(start + timedelta(days=days), zone)
