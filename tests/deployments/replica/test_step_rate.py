"""Rate of a stage."""

from deployments.replica.step_rate import StepRate
from serve_app.domain.progress import Progress, Stage
from tests.fakes.clock import FakeClock


def last_of(rate, clock, stage, steps, apart_s, all_steps=40):
    """The last of several reports, one step every ``apart_s``."""
    for step in steps:
        last = rate.with_rate(Progress(stage, step, all_steps))
        clock.advance(apart_s)
    return last


def test_the_first_step_of_a_stage_has_no_rate():
    clock = FakeClock()
    rate = StepRate(clock)
    first = rate.with_rate(Progress(Stage.DENOISING, 0, 40))
    assert (first.rate, first.left_s) == (0.0, None)


def test_steady_steps_give_their_rate_and_the_time_that_is_left():
    clock = FakeClock()
    last = last_of(StepRate(clock), clock, Stage.DENOISING, range(13), 0.5)
    assert last.rate == 2.0
    assert last.left_s == 14.0


def test_steps_of_minutes_have_a_rate_too():
    clock = FakeClock()
    assert last_of(StepRate(clock), clock, Stage.DENOISING, range(9), 120).rate == 1 / 120


def test_a_first_step_that_loads_the_model_does_not_count():
    clock = FakeClock()
    rate = StepRate(clock)
    last_of(rate, clock, Stage.DENOISING, range(1), 60.0)
    assert last_of(rate, clock, Stage.DENOISING, range(1, 2), 2.0).left_s is None
    assert last_of(rate, clock, Stage.DENOISING, range(2, 3), 2.0).left_s == 38 * 2.0
    assert last_of(rate, clock, Stage.DENOISING, range(3, 9), 2.0).left_s == 32 * 2.0


def test_a_slower_step_later_counts():
    clock = FakeClock()
    rate = StepRate(clock)
    last_of(rate, clock, Stage.DENOISING, range(3), 1.0)
    clock.advance(3.0)
    assert last_of(rate, clock, Stage.DENOISING, range(3, 5), 1.0).rate == 4 / 7


def test_another_pace_is_seen_after_a_while():
    clock = FakeClock()
    rate = StepRate(clock)
    last_of(rate, clock, Stage.DENOISING, range(20), 0.1)
    last = last_of(rate, clock, Stage.DENOISING, range(20, 40), 2.0)
    assert abs(last.rate - 0.5) < 0.01


def test_each_stage_begins_anew():
    clock = FakeClock()
    rate = StepRate(clock)
    last_of(rate, clock, Stage.DOWNLOADING, range(0, 10**9, 10**8), 1.0, all_steps=10**9)
    assert last_of(rate, clock, Stage.DENOISING, range(1), 1.0).rate == 0
    assert last_of(rate, clock, Stage.DENOISING, range(1, 5), 1.0).rate == 1.0


def test_a_download_that_reports_many_times_a_second_has_a_steady_rate():
    clock = FakeClock()
    steps = range(0, 10**9, 10**6)
    last = last_of(StepRate(clock), clock, Stage.DOWNLOADING, steps, 0.001, all_steps=10**9)
    assert abs(last.rate - 10**9) < 10**7
