"""The engine measures its forwards and ends requests one by one where merging gains nothing."""

from statistics import mean
from threading import Event
from time import sleep

import pytest
import torch

from deployments.engine.engine import Engine
from tests.engine.gate import Gate
from tests.engine.loop.simulated import between, compute_bound, launch_bound
from tests.engine.loops import Denoiser, Loop

pytestmark = pytest.mark.engine

STEPS = 28


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(Denoiser):
    """Its forwards take time on a clock that nothing else moves on."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock = clock
        self.seconds = seconds

    def forward(self, hidden_states, timestep, extra=None):
        self.clock.now += self.seconds(len(hidden_states))
        return super().forward(hidden_states, timestep, extra)


def start(number):
    return torch.full((1, 4), float(number))


def latencies(engine, clock, count=8, steps=STEPS):
    """Of requests that come together, a minute after all that was before."""
    clock.now += 60
    began, ended = clock.now, []
    gate = Gate(engine)
    running = [
        engine.submit(start=start(n), steps=steps, num_inference_steps=steps) for n in range(count)
    ]
    for generation in running:
        generation.add_done_callback(lambda _: ended.append(clock.now - began))
    gate.open()
    for number, generation in enumerate(running):
        assert torch.equal(generation.result(60), Loop(Denoiser())(start(number), steps))
    while len(ended) < count:  # callbacks come after the result
        sleep(0.001)
    return ended


def bursts(seconds, **options):
    """Latencies of a second burst, and the engine's counters of both."""
    clock = Clock()
    pipeline = Loop(Timed(clock, seconds))
    with Engine(pipeline, max_batch=8, monotonic=clock, **options) as engine:
        latencies(engine, clock)
        second = latencies(engine, clock)
        return second, engine.counts(), engine.forward_times()


def test_where_rows_gain_nothing_requests_end_one_by_one_and_the_last_no_later():
    merged, *_ = bursts(compute_bound, limit_rows=False)
    limited, counts, (measured,) = bursts(compute_bound)
    assert mean(limited) <= 0.65 * mean(merged)
    assert max(limited) <= 1.06 * max(merged)
    assert measured.knee == 1
    assert measured.seconds[1] == pytest.approx(compute_bound(1))
    assert counts["not_merged"]["no gain"] >= 7 * STEPS  # of the second burst alone


def test_where_rows_gain_something_they_are_merged_up_to_the_knee():
    merged, *_ = bursts(launch_bound, limit_rows=False)
    limited, counts, (measured,) = bursts(launch_bound)
    assert measured.knee == 4
    assert mean(limited) <= 0.8 * mean(merged)
    assert max(limited) <= 1.01 * max(merged)
    assert counts["batch_sizes"][4] >= 2 * STEPS


@pytest.mark.long
def test_while_the_demand_is_high_all_share_their_forwards():
    clock = Clock()
    pipeline = Loop(Timed(clock, compute_bound))
    with Engine(pipeline, max_batch=8, monotonic=clock) as engine:
        latencies(engine, clock)
        clock.now += 60
        before = engine.counts()["batch_sizes"].get(8, 0)
        # More than 60 s of work in a minute.
        latencies(engine, clock, steps=100)
        assert engine.counts()["batch_sizes"][8] >= before + 80


def test_while_clients_keep_coming_all_share_their_forwards_within_seconds():
    clock, count, ended = Clock(), 64, Event()
    pipeline = Loop(Timed(clock, between))
    with Engine(pipeline, max_batch=8, monotonic=clock) as engine:
        latencies(engine, clock)
        clock.now += 60
        before, began = engine.counts()["batch_sizes"].get(8, 0), clock.now
        waiting = iter(range(count))
        left = [count]

        def follow(_=None):
            """One client takes the next request when its last one is done."""
            number = next(waiting, None)
            if number is not None:
                running = engine.submit(start=start(number), steps=4, num_inference_steps=4)
                running.add_done_callback(follow)
                running.add_done_callback(count_down)

        def count_down(_):
            left[0] -= 1
            if not left[0]:
                ended.set()

        gate = Gate(engine)
        for _ in range(8):
            follow()
        gate.open()
        assert ended.wait(60)
        assert clock.now - began < 20
        assert engine.counts()["batch_sizes"][8] >= before + 10
