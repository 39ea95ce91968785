from __future__ import annotations

import pytest

from serve_app.queue.state.duty_cycle import DutyCycle
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def duty(clock: FakeClock) -> DutyCycle:
    return DutyCycle(clock, factor=20)


def run(duty: DutyCycle, clock: FakeClock, took_s: float) -> None:
    with duty.run():
        clock.advance(took_s)


def test_work_that_stays_slow_takes_its_share_of_the_time(
    duty: DutyCycle, clock: FakeClock
) -> None:
    run(duty, clock, 2.0)
    run(duty, clock, 2.0)
    clock.advance(37.0)
    assert not duty.is_due()
    clock.advance(2.0)
    assert duty.is_due()


def test_one_slow_run_does_not_delay_the_next(duty: DutyCycle, clock: FakeClock) -> None:
    run(duty, clock, 0.001)
    run(duty, clock, 8.0)
    assert duty.is_due()


def test_a_run_that_fails_counts(duty: DutyCycle, clock: FakeClock) -> None:
    def fail() -> None:
        with duty.run():
            clock.advance(2.0)
            raise TimeoutError

    for _ in range(2):
        with pytest.raises(TimeoutError):
            fail()
    assert not duty.is_due()


def test_runs_keep_the_least_distance(duty: DutyCycle, clock: FakeClock) -> None:
    assert duty.is_due(0.1)
    run(duty, clock, 0.0)
    assert not duty.is_due(0.1)
    clock.advance(0.2)
    assert duty.is_due(0.1)
