"""The scaling policy over simulated hours, beside Ray Serve's own."""

import random

from benchmarks.scaling import (
    WARM,
    Pool,
    Requests,
    Simulation,
    darkroom,
    idle_only,
    make_requests,
    serve,
)

POOL = Pool(slots=4, start_s=60.0, most=16)


def test_under_a_steady_load_it_needs_less_than_serves_policy_and_waits_no_longer() -> None:
    requests = make_requests("steady", mean_s=10.0, length_s=4 * 3600)
    ours = Simulation(POOL, requests, darkroom(POOL, keep_alive_s=300, target_wait_s=5)).run()
    serves = Simulation(POOL, requests, serve(POOL, 2, 600)).run()
    assert ours.gpu_hours < 0.8 * serves.gpu_hours
    assert ours.wait_s(0.95) <= serves.wait_s(0.95)


def test_it_shrinks_after_a_burst_amid_a_load_that_never_ends() -> None:
    chance = random.Random(1)  # noqa: S311
    arrivals = [0.0]
    while arrivals[-1] < 2 * 3600:
        rate = 2.0 if arrivals[-1] < 120 else 0.1
        arrivals.append(arrivals[-1] + chance.expovariate(rate))
    requests = Requests(arrivals, [10.0] * len(arrivals))
    ours = Simulation(POOL, requests, darkroom(POOL, keep_alive_s=300, target_wait_s=5)).run()
    before = Simulation(POOL, requests, idle_only(POOL, 300)).run()
    assert ours.gpu_hours < 0.4 * before.gpu_hours


def test_every_request_is_served_whoever_is_stopped() -> None:
    requests = make_requests("mixed", mean_s=10.0, length_s=2 * 3600)
    result = Simulation(POOL, requests, darkroom(POOL, keep_alive_s=10, target_wait_s=5)).run()
    assert len(result.waits_s) == len(requests.arrivals)
    assert result.handed_over > 0
    assert min(result.waits_s) >= 0


def test_a_warm_target_before_a_burst_saves_its_requests_the_cold_start() -> None:
    requests = make_requests("bursts", mean_s=10.0, length_s=4 * 3600)
    warm = WARM["bursts"]
    late = Simulation(POOL, requests, darkroom(POOL, keep_alive_s=60, target_wait_s=5)).run()
    early = Simulation(POOL, requests, darkroom(POOL, 60, 5, warm)).run()
    # The simulation begins with the first burst, so nothing could be started before that one.
    later = [wait for at, wait in zip(requests.arrivals, early.waits_s, strict=True) if at > 3600]
    assert sorted(later)[int(0.95 * len(later))] < 5 < late.wait_s(0.95)
    assert early.gpu_hours < late.gpu_hours + 1
