"""Retry delay of a refused submit."""

from __future__ import annotations

import pytest

from serve_app.queue.state.counters import MAX_RETRY_S, MIN_RETRY_S, UNKNOWN_RETRY_S, Throughput


def make_throughput(seconds: int, rate: int) -> Throughput:
    """Throughput after ``rate`` requests left the pool `studio` in each of ``seconds`` seconds."""
    pace = Throughput()
    for _ in range(seconds):
        for _ in range(rate):
            pace.count_removal("studio", "ann", "probe")
        pace.tick(1.0)
    return pace


def test_while_nothing_leaves_the_throughput_is_unknown() -> None:
    assert Throughput().until_gone_s(7, "studio") == UNKNOWN_RETRY_S
    assert make_throughput(60, 2).until_gone_s(7, "other") == UNKNOWN_RETRY_S


def test_those_that_must_leave_first_take_their_time_at_the_pace_of_their_pool() -> None:
    assert make_throughput(60, 2).until_gone_s(20, "studio") == pytest.approx(10.0, rel=0.01)


def test_the_retry_time_is_never_at_once_nor_in_an_hour() -> None:
    assert make_throughput(60, 2).until_gone_s(1, "studio") == MIN_RETRY_S
    assert make_throughput(60, 2).until_gone_s(100_000, "studio") == MAX_RETRY_S


def test_of_all_that_wait_a_tenth_goes_before() -> None:
    pace = make_throughput(60, 2)
    for whose in ({}, {"tenant": "ann"}, {"endpoint": "probe"}):
        assert pace.retry_s(400, **whose) == pytest.approx(20.0, rel=0.01)
