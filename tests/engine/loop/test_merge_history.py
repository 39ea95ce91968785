"""Calls share a forward where that gains something, and no generation waits without bound."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.loop.merge_history import (
    MAX_LOAD,
    SUSTAINED_ENDS,
    WINDOW_S,
    BusyPeriod,
    ForwardTimes,
    StepDemand,
    due_at,
)
from deployments.engine.loop.step_batcher import Candidate, StepBatcher
from tests.engine.loop.simulated import (
    DEVICES,
    Device,
    Request,
    between,
    burst,
    compute_bound,
    flattening,
    launch_bound,
    mean_latency,
    poisson,
)


def measure_forwards(seconds, sizes=(1, 2, 4, 8)):
    times = ForwardTimes()
    for rows in sizes * 2:
        times.record(rows, seconds(rows))
    return times


@pytest.mark.parametrize(("seconds", "knee"), [(compute_bound, 1), (launch_bound, 4), (between, 4)])
def test_the_knee_is_before_the_first_row_that_gains_less_than_a_twentieth(seconds, knee):
    assert measure_forwards(seconds).knee(8) == knee


def test_between_sizes_and_beyond_them_seconds_are_linear():
    times = measure_forwards(compute_bound, sizes=(1, 2, 4))
    for rows in range(1, 9):
        assert times.seconds(rows) == pytest.approx(compute_bound(rows))


def test_one_slow_forward_changes_nothing():
    times = measure_forwards(compute_bound)
    times.record(1, 60.0)  # such as one that compiles
    assert times.seconds(1) == pytest.approx(compute_bound(1))


def test_one_size_that_was_measured_too_slow_does_not_hide_what_more_rows_gain():
    times = measure_forwards(lambda rows: 0.02 + 0.01 * rows)
    assert times.knee(8) == 6
    for _ in range(8):
        times.record(4, 0.072)  # on a busy machine
    assert times.rate(4) < 1.05 * times.rate(3)
    assert times.knee(8) >= 5


def test_without_measurements_all_are_merged():
    times = ForwardTimes()
    assert times.limit(8, 0.0) == 8
    times.record(8, 0.8)
    times.record(8, 0.8)
    assert times.limit(8, 0.0) == 8


def test_sizes_are_measured_as_work_goes_by_and_again_later():
    device = Device(compute_bound)
    for _ in range(3):
        device.run(burst(count=4, steps=100, at=device.now + WINDOW_S))
    assert device.batches[:12] == [4] * 8 + [1, 1, 2, 2]
    assert sorted(device.times.seconds_by_calls()) == [1, 2, 4]
    merged = sum(rows > 1 for rows in device.batches[12:])
    assert 0 < merged <= 0.02 * len(device.batches)


def test_a_size_that_is_never_there_is_not_waited_for():
    device = Device(compute_bound)
    device.run(burst(count=3, steps=100))
    assert device.batches.count(1) > 200


def test_the_demand_is_that_of_a_full_window_even_at_the_start():
    times = measure_forwards(compute_bound)
    demand = StepDemand()
    demand.add(times, 224, now=0.0)
    load = 224 * compute_bound(1) / WINDOW_S / MAX_LOAD
    assert demand.load(0.1, 8) == pytest.approx(load)
    assert demand.load(59.9, 8) == pytest.approx(load)
    assert demand.load(60.0, 8) == 0


def test_more_rows_than_at_the_knee_share_a_forward_while_the_demand_needs_them():
    times = measure_forwards(compute_bound)
    assert times.limit(8, 0.9) == 1
    assert times.limit(8, 1.02) == 2
    assert times.limit(8, 5.0) == 8  # more than any number carries


def test_models_that_share_a_device_share_the_demand():
    first, other = measure_forwards(compute_bound), measure_forwards(compute_bound)
    demand = StepDemand()
    for times in (first, other):
        demand.add(times, int(0.6 * WINDOW_S * MAX_LOAD / compute_bound(1)), now=0.0)
    assert demand.load(1.0, 8) == pytest.approx(1.2, rel=0.01)


def test_eight_that_come_together_are_ready_in_six_tenths_of_the_time_and_the_last_no_later():
    merged = Device(compute_bound, merges_all=True).run(burst())
    limited = Device(compute_bound).learn().run(burst())
    assert mean_latency(limited) <= 0.6 * mean_latency(merged)
    assert max(request.latency for request in limited) <= 1.06 * max(
        request.latency for request in merged
    )


@pytest.mark.long
@pytest.mark.parametrize("seconds", DEVICES)
@pytest.mark.parametrize("load", [0.6, 0.93])
@pytest.mark.parametrize("steps", [(28,), (4, 4, 4, 28, 28, 50)], ids=["equal", "mixed"])
def test_under_load_the_throughput_stays(seconds, load, steps):
    merging, limited = Device(seconds, merges_all=True), Device(seconds)
    merged = merging.run(poisson(load, seconds, steps))
    served = limited.run(poisson(load, seconds, steps))
    assert limited.now <= 1.01 * merging.now
    assert mean_latency(served) <= 1.12 * mean_latency(merged)
    slowest = max(request.latency for request in served)
    assert slowest <= 1.3 * max(request.latency for request in merged)


requests = st.lists(
    st.builds(
        Request,
        arrives=st.floats(0, 60, allow_nan=False),
        steps=st.integers(1, 30),
    ),
    min_size=1,
    max_size=25,
)


@given(requests, st.integers(1, 8), st.lists(st.sampled_from("ab"), min_size=25, max_size=25))
def test_one_that_is_due_ends_within_twice_the_work_that_is_due_before_it_and_its_own(
    wished, most, keys
):
    """However short those are that keep arriving, and of whatever model."""
    batcher, turn, now = StepBatcher(), 0, 0.0
    longest = 0.1 * most
    waiting = sorted(wished, key=lambda wish: wish.arrives)
    for number, request in enumerate(waiting):
        request.number, request.left = number, request.steps
    due_times = {waiter.number: due_at(waiter.arrives, waiter.steps * 0.1) for waiter in waiting}
    bounds = {}
    running = []
    while waiting or running:
        if not running:
            now = max(now, waiting[0].arrives)
        while waiting and waiting[0].arrives <= now:
            running.append(waiting.pop(0))
        for request in running:
            if due_times[request.number] <= now and request.number not in bounds:
                mine = due_times[request.number], request.number
                before = sum(
                    other.left
                    for other in running
                    if (due_times[other.number], other.number) <= mine
                )
                bounds[request.number] = now + 2 * longest * (before + 1)
        turn += 1
        chosen = batcher.choose(
            [
                Candidate(
                    member.number,
                    0,
                    member.last_turn,
                    keys[member.number],
                    due_at=due_times[member.number],
                    remaining=member.left,
                    max_calls=most,
                )
                for member in running
            ],
            turn,
            now,
        )
        now += 0.1 * len(chosen)
        numbers = {choice.generation for choice in chosen}
        for request in running:
            if request.number in numbers:
                request.left, request.last_turn = request.left - 1, turn
                assert now <= bounds.get(request.number, inf) + 1e-9
        running = [member for member in running if member.left]


def test_while_clients_keep_coming_more_than_the_knee_are_merged_within_seconds():
    steps = [4, 8, 12, 20, 28] * 16
    ended = []
    for merges_all in (True, False):
        device = Device(flattening, max_batch=16, merges_all=merges_all).learn()
        began = device.now
        device.serve(16, [Request(0.0, count) for count in steps])
        ended.append(device.now - began)
    merged, limited = ended
    assert limited < 10  # seconds, of a window of 60
    assert limited <= 1.1 * merged


def ends(busy, generations, now, each_s=1.0):
    """So many that come together end one after the other, and nobody follows."""
    for left in range(generations, 0, -1):
        busy.has(left, now)
        assert not busy.is_sustained
        busy.count_generation()
        now += each_s
    busy.idle(now)
    return now


@given(bursts=st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_bursts_with_idle_times_between_are_not_taken_for_a_lasting_demand(bursts):
    busy, now = BusyPeriod(), 0.0
    for generations in bursts:
        now = ends(busy, generations, now)
        now += 0.3 * generations  # idle for more than a fifth


@given(clients=st.integers(1, 40), gap_s=st.floats(0, 0.1))
def test_clients_that_keep_coming_are_a_lasting_demand_until_they_stop(clients, gap_s):
    busy, now = BusyPeriod(), 0.0
    for _ in range(SUSTAINED_ENDS + clients):
        busy.has(clients, now)
        busy.count_generation()
        now += 1.0
        busy.idle(now)  # all of them had ended at once, and the next are on their way
        now += gap_s
    assert busy.is_sustained
    busy.has(1, 2 * now)
    assert not busy.is_sustained


def test_an_hour_of_demand_is_over_a_minute_after_the_engine_is_idle_half_of_the_time():
    busy, now = BusyPeriod(), 0.0
    for share, until in ((0.95, 3600.0), (0.5, 3660.0)):
        while now < until:
            busy.has(1, now)
            busy.count_generation()
            now += share
            busy.idle(now)
            now += 1 - share
        assert busy.is_sustained is (share > MAX_LOAD)


def test_a_demand_without_bound_gets_the_best_throughput():
    assert measure_forwards(compute_bound).limit(8, inf) == 8
    assert measure_forwards(launch_bound).limit(8, inf) in (4, 5, 6, 7, 8)
    worse = measure_forwards(lambda rows: 0.01 * rows**1.5)
    assert worse.limit(8, inf) == 1
