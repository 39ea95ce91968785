"""After how long a refused submit is worth another try."""

from __future__ import annotations

import pytest

from serve_app.queue.pace import LEAST_RETRY_S, MOST_RETRY_S, UNKNOWN_RETRY_S, Pace


def served(seconds: int, each: int) -> Pace:
    """So many left the pool `studio` in each of so many seconds."""
    pace = Pace()
    for _ in range(seconds):
        for _ in range(each):
            pace.left("studio", "ann", "probe")
        pace.tick(1.0)
    return pace


def test_while_nothing_leaves_nobody_knows() -> None:
    assert Pace().until_gone_s(7, "studio") == UNKNOWN_RETRY_S
    assert served(60, 2).until_gone_s(7, "other") == UNKNOWN_RETRY_S


def test_those_that_must_leave_first_take_their_time_at_the_pace_of_their_pool() -> None:
    assert served(60, 2).until_gone_s(20, "studio") == pytest.approx(10.0, rel=0.01)


def test_it_is_never_told_to_come_at_once_nor_in_an_hour() -> None:
    assert served(60, 2).until_gone_s(1, "studio") == LEAST_RETRY_S
    assert served(60, 2).until_gone_s(100_000, "studio") == MOST_RETRY_S


def test_of_all_that_wait_a_tenth_goes_before() -> None:
    pace = served(60, 2)
    for whose in ({}, {"tenant": "ann"}, {"endpoint": "probe"}):
        assert pace.retry_s(400, **whose) == pytest.approx(20.0, rel=0.01)
