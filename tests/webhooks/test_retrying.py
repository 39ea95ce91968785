"""Delay before the next try of a delivery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.webhook import ReceiverResponse
from serve_app.settings import Config
from serve_app.webhooks.retrying import JITTER, retry_delay_s

WAITS = Config(gpus=0).webhooks.webhook_waits_s
BAD = ReceiverResponse(0.1, 500, "It answered 500.")


def test_ten_tries_in_two_hours() -> None:
    waits = [retry_delay_s(BAD, tries, WAITS, 0.0) for tries in range(1, 11)]
    assert waits == [*WAITS, None]
    assert 6500 < sum(WAITS) < 2 * 3600


@given(st.integers(1, 9), st.floats(0, 1))
def test_waits_are_longer_by_chance_and_never_shorter(tries: int, chance: float) -> None:
    wait = retry_delay_s(BAD, tries, WAITS, chance)
    assert wait is not None
    assert WAITS[tries - 1] <= wait <= WAITS[tries - 1] * (1 + JITTER)


@pytest.mark.parametrize(("asked", "given_s"), [(0.0, 5.0), (4.0, 5.0), (1000.0, 1000.0)])
def test_who_asks_for_more_time_gets_it(asked: float, given_s: float) -> None:
    assert retry_delay_s(ReceiverResponse(0.1, 503, "Busy.", asked), 1, WAITS, 0.0) == given_s


def test_what_is_final_is_not_tried_again() -> None:
    assert retry_delay_s(ReceiverResponse(0.1, 410, "Gone.", final=True), 1, WAITS, 0.0) is None


def test_without_waits_there_is_one_try() -> None:
    assert retry_delay_s(BAD, 1, (), 0.0) is None
