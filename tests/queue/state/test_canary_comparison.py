"""When a canary is worse than the pool beside it, by how their attempts ended."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.queue.state.canary_comparison import (
    CHANCE,
    CanaryAttempt,
    Late,
    Tally,
    chance_of_failures,
    chance_of_late,
    compare,
)

LATEST = 1000
"""Attempts of each side that are compared."""


def make_attempts(
    tried: bool,
    how: str,
    times: int,
    seconds: float | None = None,
    replica: str = "",
) -> list[CanaryAttempt]:
    return [
        CanaryAttempt(tried, replica or f"r{number}", "fal-ai/flux/dev", how, seconds)
        for number in range(times)
    ]


def test_a_canary_that_fails_what_its_pool_does_not_is_worse_after_a_few_attempts() -> None:
    usual = make_attempts(False, "succeeded", 100)
    assert not compare([*usual, *make_attempts(True, "failed", 1)], "flux").worse
    comparison = compare([*usual, *make_attempts(True, "failed", 3)], "flux")
    assert comparison.worse == "it fails more often"
    assert comparison.summary == "3 of 3 attempts failed (flux: 0 of 100)"


@pytest.mark.parametrize("how", ["failed", "retry", "died", "lost"])
def test_each_end_that_is_no_success_is_a_failure(how: str) -> None:
    attempts = [*make_attempts(False, "succeeded", 200), *make_attempts(True, how, 5)]
    assert compare(attempts, "flux").worse


def test_a_canary_that_fails_as_often_as_its_pool_goes_on() -> None:
    attempts = [
        *make_attempts(False, "failed", 100),
        *make_attempts(False, "succeeded", 900),
        *make_attempts(True, "failed", 10),
        *make_attempts(True, "succeeded", 80),
    ]
    assert not compare(attempts, "flux").worse


def test_what_one_replica_loses_when_it_is_cut_off_is_one_failure() -> None:
    usual = make_attempts(False, "succeeded", 100)
    cut_off = make_attempts(True, "interrupted", 8, replica="r1")
    assert not compare([*usual, *cut_off], "flux").worse
    assert compare([*usual, *make_attempts(True, "interrupted", 3)], "flux").worse


def test_a_canary_that_takes_longer_is_worse_also_if_all_succeed() -> None:
    usual = make_attempts(False, "succeeded", 50, 2.0)
    assert not compare([*usual, *make_attempts(True, "succeeded", 50, 2.4)], "flux").worse
    assert not compare([*usual, *make_attempts(True, "succeeded", 5, 9.0)], "flux").worse
    comparison = compare([*usual, *make_attempts(True, "succeeded", 12, 2.6)], "flux")
    assert comparison.worse == "it takes longer"
    assert comparison.summary.endswith("12 of 12 took over 1.25 times the usual time")


def test_times_are_compared_only_where_the_usual_one_is_known() -> None:
    few = make_attempts(False, "succeeded", 10, 2.0)
    assert not compare([*few, *make_attempts(True, "succeeded", 50, 60.0)], "flux").worse


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400), st.integers(0, 400))
def test_more_failures_of_the_canary_are_never_more_likely_by_chance(
    failures: int, others: int, successes: int, other_successes: int
) -> None:
    usual = Tally(others + other_successes, others)
    fewer = Tally(failures + successes + 1, failures)
    more = Tally(failures + successes + 1, failures + 1)
    assert 0 <= chance_of_failures(more, usual) <= chance_of_failures(fewer, usual) <= 1


def test_the_probabilities_are_those_of_the_textbook() -> None:
    # Fisher's tea: 3 of 4 right, and 4 of 4.
    assert chance_of_failures(Tally(4, 3), Tally(4, 1)) == pytest.approx(17 / 70)
    assert chance_of_failures(Tally(4, 4), Tally(4, 0)) == pytest.approx(1 / 70)
    assert chance_of_late(Late(10, 9)) == pytest.approx(11 / 1024)
    assert chance_of_late(Late(0, 0)) == 1


@pytest.mark.long
def test_a_canary_like_its_pool_rarely_returns_however_often_it_is_looked_at() -> None:
    random = Random(7)  # noqa: S311 a simulation
    returned, canaries = 0, 100
    for _ in range(canaries):
        attempts: list[CanaryAttempt] = []
        for number in range(1000):
            how = "failed" if random.random() < 0.05 else "succeeded"
            tried = random.random() < 0.2
            seconds = random.lognormvariate(0, 0.3) if how == "succeeded" else None
            attempts.append(CanaryAttempt(tried, "r1", "fal-ai/flux/dev", how, seconds))
            if number % 25 == 24 and compare(attempts, "flux").worse:
                returned += 1
                break
    assert returned <= canaries * CHANCE * 40  # one for each look
