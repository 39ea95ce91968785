"""Time buckets follow wall clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.timeframe import Timeframe

ZONES = [
    UTC,
    *map(
        ZoneInfo,
        [
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Asia/Kathmandu",
            "Asia/Beirut",
        ],
    ),
]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(
    st.sampled_from(Timeframe),
    st.integers(946_684_800, 2_051_222_400).map(lambda at: datetime.fromtimestamp(at, UTC)),
    st.sampled_from(ZONES),
)
def test_every_moment_is_in_one_piece_and_the_pieces_leave_no_gap(
    timeframe: Timeframe, at: datetime, zone: ZoneInfo
) -> None:
    start = timeframe.start(at, zone)
    end = timeframe.next(start, zone)
    assert start <= at < end
    assert timeframe.start(start, zone) == start
    assert timeframe.start(end - timedelta(microseconds=1), zone) == start


def test_a_day_is_as_long_as_its_clocks_say() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for day, hours in (
        ("2026-03-29T12:00", 23),
        ("2026-10-25T12:00", 25),
        ("2026-06-01T12:00", 24),
    ):
        start = Timeframe.DAY.start(utc(day), berlin)
        assert Timeframe.DAY.next(start, berlin) - start == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("timeframe", "start"),
    [
        (Timeframe.MINUTE, "2026-01-31T10:17"),
        (Timeframe.HOUR, "2026-01-31T10:00"),
        (Timeframe.DAY, "2026-01-31T00:00"),
        (Timeframe.WEEK, "2026-01-26T00:00"),
        (Timeframe.MONTH, "2026-01-01T00:00"),
    ],
)
def test_where_a_piece_begins(timeframe: Timeframe, start: str) -> None:
    assert timeframe.start(utc("2026-01-31T10:17:42"), UTC) == utc(start)


def test_a_long_time_is_cut_into_longer_pieces() -> None:
    days = {1 / 24: "minute", 1: "hour", 7: "day", 100: "week", 365: "month"}
    for length, expected in days.items():
        assert Timeframe.fitting(timedelta(days=length)) == expected
