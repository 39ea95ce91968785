"""Hours and days in which warm replicas are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.settings.pools import PoolConfig, WarmConfig
from serve_app.settings.schedule import is_within

BERLIN = "Europe/Berlin"
ZONES = ("UTC", BERLIN, "America/New_York", "Asia/Kathmandu", "Pacific/Apia")
minutes = st.integers(0, 24 * 60 - 1)
moments = st.floats(0, 12 * 365 * 86400).map(
    lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def local(*time: int) -> datetime:
    return datetime(*time, tzinfo=ZoneInfo(BERLIN))


def test_office_hours_are_those_of_the_zone() -> None:
    hours = "08:00-20:00", "mon-fri", BERLIN
    assert is_within(local(2026, 11, 23, 8, 0), *hours)  # a Monday
    assert not is_within(local(2026, 11, 23, 7, 59), *hours)
    assert not is_within(local(2026, 11, 23, 20, 0), *hours)
    assert not is_within(local(2026, 11, 22, 12, 0), *hours)
    assert is_within(datetime(2026, 11, 23, 7, 0, tzinfo=UTC), *hours)
    assert not is_within(datetime(2026, 7, 20, 18, 0, tzinfo=UTC), *hours)  # 20:00 in summer


def test_hours_over_midnight_belong_to_the_day_on_which_they_start() -> None:
    hours = "22:00-06:00", "fri", BERLIN
    assert is_within(local(2026, 11, 27, 23, 0), *hours)  # a Friday
    assert is_within(local(2026, 11, 28, 5, 59), *hours)
    assert not is_within(local(2026, 11, 28, 6, 0), *hours)
    assert not is_within(local(2026, 11, 27, 5, 0), *hours)
    assert is_within(local(2026, 11, 29, 23, 59), "22:00-24:00", "sun", BERLIN)
    assert not is_within(local(2026, 11, 30, 0, 0), "22:00-24:00", "sun", BERLIN)


def test_an_hour_that_clocks_skip_is_never_and_one_that_they_repeat_is_twice() -> None:
    hours = "02:00-03:00", "", BERLIN
    for month, day, expected in ((3, 29, 0), (10, 25, 120)):
        start = datetime(2026, month, day, tzinfo=UTC) - timedelta(hours=3)
        at = (start + timedelta(minutes=n) for n in range(24 * 60))
        assert sum(is_within(moment, *hours) for moment in at) == expected


@given(moments, minutes, minutes, st.sampled_from(ZONES))
def test_a_day_is_divided_between_hours_and_the_other_hours(
    now: datetime, start: int, end: int, zone: str
) -> None:
    if start != end:
        day, night = f"{clock(start)}-{clock(end)}", f"{clock(end)}-{clock(start)}"
        assert is_within(now, day, "", zone) != is_within(now, night, "", zone)


@given(moments, minutes, minutes, st.sampled_from(ZONES))
def test_the_days_of_the_week_divide_any_hours(
    now: datetime, start: int, end: int, zone: str
) -> None:
    hours = "" if start == end else f"{clock(start)}-{clock(end)}"
    parts = [is_within(now, hours, days, zone) for days in ("mon-thu", "fri,sat", "sun")]
    assert sum(parts) == is_within(now, hours, "", zone)


@given(moments, st.sampled_from(ZONES))
def test_days_may_wrap_around_the_end_of_the_week(now: datetime, zone: str) -> None:
    assert is_within(now, "", "sat-mon", zone) == is_within(now, "", "sat,sun,mon", zone)


@pytest.mark.parametrize(
    ("wish", "pattern"),
    [
        ({"hours": "8-20"}, "such as 08:00-20:00"),
        ({"hours": "08:00-08:00"}, "without hours: all day"),
        ({"hours": "24:00-06:00"}, "such as 08:00-20:00"),
        ({"days": "weekdays"}, "such as mon-fri"),
        ({"timezone": "Berlin"}, "Berlin is no time zone"),
        ({"level": "lukewarm"}, "hot"),
        ({"replicas": 0}, "greater than"),
    ],
)
def test_what_is_wrong_with_a_warm_entry_is_said(wish: dict[str, object], pattern: str) -> None:
    with pytest.raises(ValidationError, match=pattern):
        WarmConfig.model_validate(wish)


def test_a_pool_keeps_no_more_replicas_warm_than_it_may_have() -> None:
    with pytest.raises(ValidationError, match="max_replicas is 1"):
        PoolConfig(families=("flux",), warm=(WarmConfig(replicas=2),))
