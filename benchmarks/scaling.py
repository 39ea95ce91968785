"""Simulated days of a pool: GPU-hours and waiting by scaling policy.

    python -m benchmarks.scaling [--traffic steady day bursts mixed sparse] [--keep-alive 300]
        [--target-wait 5] [--start 60] [--slots 4] [--most 16] [--seconds 10] [--recorded FILE]

Runs the product's own policy (``serve_app.scaling.policy``), alone and, for bursts whose times are
known, with a warm target that begins before each of them; Ray Serve's request-count policy with
its defaults and with a target that fits the slots, and the policy of Darkroom before November 2026,
which shrank only idle pools. Requests come at random moments of the given rate; their times are
lognormal. A replica that is stopped hands its requests over: each is queued again with what is left
of it, and a second more. ``--recorded``: a CSV file with a line ``time,seconds`` for each request,
such as

    COPY (SELECT extract(epoch FROM created_at), run_s FROM requests WHERE run_s > 0) TO STDOUT CSV

There is no clock and no process: figures depend on nothing but the arguments.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.serve import autoscaling_policy
from ray.serve.config import AutoscalingConfig

from serve_app.scaling.policy import Bounds, Load, Scaler

DAY_S = 86400.0
TICK_S = 1.0
HAND_OVER_S = 1.0
LOOK_BACK_S = 30.0  # over which Serve averages the number of requests

Rate = Callable[[float], float]
TRAFFIC: Mapping[str, tuple[Rate, float]] = {
    "steady": (lambda _: 0.3, 0.3),
    "day": (lambda t: 0.01 + 0.3 * (1 - math.cos(2 * math.pi * t / DAY_S)), 0.61),
    "bursts": (lambda t: 2.0 if t % 7200 < 120 else 0.0, 2.0),
    "mixed": (
        lambda t: 0.15 * (1 - math.cos(2 * math.pi * t / DAY_S)) + (1.5 if t % 5000 < 300 else 0.0),
        1.8,
    ),
    "sparse": (lambda _: 0.004, 0.004),
}
"""Requests per second over the day, and the highest rate. ``bursts``: two minutes every two hours.
``mixed``: a day with five minutes of more every 83 minutes."""

Warm = Callable[[float], int]
WARM_BEFORE_S = 90.0
WARM: Mapping[str, Warm] = {
    "bursts": lambda t: 5 if (t + WARM_BEFORE_S) % 7200 < WARM_BEFORE_S + 120 else 0,
    "mixed": lambda t: 4 if (t + WARM_BEFORE_S) % 5000 < WARM_BEFORE_S + 300 else 0,
}
"""Replicas of a warm target at each moment, for traffic with bursts at known times: as many as a
burst fills with requests of ten seconds on four slots, from ``WARM_BEFORE_S`` before to its end."""


@dataclass(frozen=True)
class Requests:
    """Requests by their arrival: seconds since the start, and seconds of a slot that each takes."""

    arrivals: Sequence[float]
    seconds: Sequence[float]


@dataclass(frozen=True)
class Seen:
    """What a policy sees at one moment."""

    now: float
    load: Load
    ready: int  # replicas
    target: int


Policy = Callable[[Seen], int]


@dataclass(frozen=True)
class Pool:
    slots: int = 4
    start_s: float = 60.0
    most: int = 16


@dataclass(eq=False)
class Replica:
    made_at: float
    ready_at: float
    running: dict[int, float] = field(default_factory=dict)  # request → end


@dataclass(frozen=True)
class Result:
    gpu_hours: float
    busy_hours: float
    waits_s: Sequence[float]
    handed_over: int
    changes: int

    def wait_s(self, share: float) -> float:
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Simulation:
    """One pool, from its first request until all have ended. It starts without replicas."""

    def __init__(self, pool: Pool, requests: Requests, policy: Policy) -> None:
        self._pool = pool
        self._requests = requests
        self._policy = policy
        self._replicas: list[Replica] = []
        self._queue: deque[int] = deque()
        self._left = list(requests.seconds)
        self._began: dict[int, float] = {}
        self._ends: list[tuple[float, int, Replica]] = []
        self._gpu_s = 0.0
        self._handed_over = self._changes = 0
        self._busy_at = 0.0

    def run(self) -> Result:
        now, come = 0.0, 0
        arrivals = self._requests.arrivals
        while (
            come < len(arrivals)
            or self._queue
            or any(replica.running for replica in self._replicas)
        ):
            now += TICK_S
            while come < len(arrivals) and arrivals[come] <= now:
                self._pass_to(arrivals[come])
                self._queue.append(come)
                self._lease(arrivals[come])
                come += 1
            self._pass_to(now)
            self._scale(now)
        self._gpu_s += sum(now - replica.made_at for replica in self._replicas)
        waits = [
            at - arrival
            for at, arrival in zip(map(self._began.__getitem__, range(come)), arrivals, strict=True)
        ]
        busy_s = sum(self._requests.seconds) / self._pool.slots
        return Result(self._gpu_s / 3600, busy_s / 3600, waits, self._handed_over, self._changes)

    def _pass_to(self, now: float) -> None:
        """End and start requests up to ``now``, each at its own moment."""
        while True:
            end = self._ends[0][0] if self._ends else math.inf
            ready = min(
                (
                    candidate.ready_at
                    for candidate in self._replicas
                    if not math.isnan(candidate.ready_at)
                ),
                default=math.inf,
            )
            if min(end, ready) > now:
                return
            if ready <= end:
                for sibling in self._replicas:
                    if sibling.ready_at == ready:
                        sibling.ready_at = math.nan
                self._lease(ready)
                continue
            _, request, replica = heapq.heappop(self._ends)
            if replica.running.get(request) == end:  # else it was handed over
                del replica.running[request]
                self._lease(end)

    def _lease(self, now: float) -> None:
        """Start what is queued, each on the replica with the most free slots."""
        while self._queue:
            free = [
                candidate
                for candidate in self._replicas
                if math.isnan(candidate.ready_at) and len(candidate.running) < self._pool.slots
            ]
            if not free:
                return
            replica = min(free, key=lambda candidate: len(candidate.running))
            request = self._queue.popleft()
            self._began.setdefault(request, now)
            end = now + self._left[request]
            replica.running[request] = end
            heapq.heappush(self._ends, (end, request, replica))

    def _scale(self, now: float) -> None:
        running = sum(len(replica.running) for replica in self._replicas)
        if self._queue or running:
            self._busy_at = now
        queued_s = sum(self._left[request] for request in self._queue)
        load = Load(len(self._queue), running, queued_s, now - self._busy_at)
        ready = sum(math.isnan(replica.ready_at) for replica in self._replicas)
        current = len(self._replicas)
        target = min(self._pool.most, self._policy(Seen(now, load, ready, current)))
        self._changes += target != current
        for _ in range(target - current):
            self._replicas.append(Replica(now, now + self._pool.start_s))
        for _ in range(current - target):
            self._stop(now)
        self._lease(now)

    def _stop(self, now: float) -> None:
        """Stop a replica as Serve does: one that still starts, or else the newest."""
        starting = [replica for replica in self._replicas if not math.isnan(replica.ready_at)]
        victim = (starting or self._replicas)[-1]
        self._replicas.remove(victim)
        self._gpu_s += now - victim.made_at
        for request, end in sorted(victim.running.items(), reverse=True):
            self._left[request] = end - now + HAND_OVER_S
            self._queue.appendleft(request)
            self._handed_over += 1
        victim.running.clear()


def darkroom(
    pool: Pool, keep_alive_s: float, target_wait_s: float, warm: Warm = lambda _: 0
) -> Policy:
    """The product's own. ``warm``: replicas that warm targets need at a moment."""
    scaler = Scaler(Bounds(pool.slots, 0, pool.most, 0, keep_alive_s, target_wait_s))
    return lambda seen: scaler.target(
        replace(seen.load, warm=warm(seen.now)), seen.target, seen.now
    )


def idle_only(pool: Pool, keep_alive_s: float) -> Policy:
    """Grows to a slot for each request, and shrinks once the pool has been idle for a while."""

    def target(seen: Seen) -> int:
        load = seen.load
        desired = math.ceil((load.queued + load.running) / pool.slots)
        if desired >= seen.target:
            return desired
        return desired if load.idle_s >= keep_alive_s else seen.target

    return target


def serve(pool: Pool, target_ongoing: float, downscale_delay_s: float) -> Policy:
    """Ray Serve's own code, as its controller calls it."""
    config = AutoscalingConfig(
        min_replicas=0,
        max_replicas=pool.most,
        target_ongoing_requests=target_ongoing,
        downscale_delay_s=downscale_delay_s,
    )
    policy: Any = autoscaling_policy._apply_autoscaling_config(  # noqa: SLF001
        autoscaling_policy.replica_queue_length_autoscaling_policy
    )
    module: Any = autoscaling_policy
    recent: deque[tuple[float, int]] = deque()
    state: dict[str, Any] = {}

    def target(seen: Seen) -> int:
        nonlocal state
        requests = seen.load.queued + seen.load.running
        recent.append((seen.now, requests))
        while recent[0][0] <= seen.now - LOOK_BACK_S:
            recent.popleft()
        mean = statistics.fmean(number for _, number in recent)
        context = SimpleNamespace(
            config=config,
            total_num_requests=mean if seen.ready else requests,
            current_num_replicas=seen.ready,
            target_num_replicas=seen.target,
            policy_state=state,
        )
        real, module.time = module.time, SimpleNamespace(time=lambda: seen.now)
        try:
            desired, state = policy(context)
        finally:
            module.time = real
        return max(0, min(pool.most, math.ceil(desired)))

    return target


def make_requests(traffic: str, mean_s: float, length_s: float = DAY_S, seed: int = 1) -> Requests:
    """Requests of this traffic. The same arguments give the same requests."""
    rate, highest = TRAFFIC[traffic]
    chance = random.Random(seed)
    arrivals: list[float] = []
    now = chance.expovariate(highest)
    while now < length_s:
        if chance.random() * highest < rate(now):
            arrivals.append(now)
        now += chance.expovariate(highest)
    sigma = 0.5
    mu = math.log(mean_s) - sigma**2 / 2
    return Requests(arrivals, [chance.lognormvariate(mu, sigma) for _ in arrivals])


def read_requests(file: Path) -> Requests:
    """Requests from a file with a line ``time,seconds`` for each."""
    with file.open(newline="") as lines:
        rows = sorted((float(at), float(seconds)) for at, seconds in csv.reader(lines))
    if not rows:
        raise SystemExit(f"{file} has no requests.")
    return Requests([at - rows[0][0] for at, _ in rows], [seconds for _, seconds in rows])


def policies(
    pool: Pool, options: argparse.Namespace, traffic: str
) -> dict[str, Callable[[], Policy]]:
    warm = WARM.get(traffic, lambda _: 0)
    return {
        "Darkroom": lambda: darkroom(pool, options.keep_alive, options.target_wait),
        "Darkroom, warm targets": lambda: darkroom(
            pool, options.keep_alive, options.target_wait, warm
        ),
        "idle only, 60 s": lambda: idle_only(pool, 60),
        "idle only, 300 s": lambda: idle_only(pool, 300),
        "Serve, defaults": lambda: serve(pool, 2, 600),
        "Serve, a request per slot": lambda: serve(pool, pool.slots, 600),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traffic", nargs="*", choices=TRAFFIC, default=[*TRAFFIC])
    parser.add_argument("--recorded", type=Path)
    parser.add_argument("--keep-alive", type=float, default=300.0, help="seconds")
    parser.add_argument("--target-wait", type=float, default=5.0, help="seconds")
    parser.add_argument("--start", type=float, default=60.0, help="seconds of a cold start")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--most", type=int, default=16, help="replicas")
    parser.add_argument("--seconds", type=float, default=10.0, help="mean time of a request")
    options = parser.parse_args(arguments)
    pool = Pool(options.slots, options.start, options.most)
    courses = {name: make_requests(name, options.seconds) for name in options.traffic}
    if options.recorded:
        courses["recorded"] = read_requests(options.recorded)
    total: dict[str, float] = {}
    for name, requests in courses.items():
        print(f"{name}: {len(requests.arrivals)} requests")
        for label, policy in policies(pool, options, name).items():
            result = Simulation(pool, requests, policy()).run()
            total[label] = total.get(label, 0.0) + result.gpu_hours
            print(
                f"  {label:26} {result.gpu_hours:6.1f} GPU-hours ({result.busy_hours:.1f} busy), "
                f"wait p50 {result.wait_s(0.5):5.1f} s, p95 {result.wait_s(0.95):5.1f} s, "
                f"p99 {result.wait_s(0.99):5.1f} s; {result.changes} changes, "
                f"{result.handed_over} handed over",
                flush=True,
            )
    print("all, GPU-hours and what Darkroom's are of them:")
    for label, hours in total.items():
        print(f"  {label:26} {hours:6.1f}  {total['Darkroom'] / hours:.2f}")


if __name__ == "__main__":
    main()
