"""Simulated days of a chain of pools: GPU-hours by class, costs and waits with overflow.

    python -m benchmarks.overflow [--market always comes-and-goes never] [--traffic day mixed]
        [--after 30 120 300] [--keep-alive 300] [--target-wait 5] [--start 120] [--slots 4]
        [--most 16] [--seconds 10] [--spot-price 0.4]

Runs the product's own policies (``serve_app.scaling.policy``) of all pools over one queue. A market
says how many nodes of a class there are at each moment: replicas beyond that are not placed, and
those whose node is taken away hand their requests over, as on a notice. Only replicas with a node
cost anything. Traffic is that of ``benchmarks.scaling``. There is no clock and no process: figures
depend on nothing but the arguments.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.scaling import DAY_S, HAND_OVER_S, TICK_S, TRAFFIC, Requests, make_requests
from serve_app.scaling.policy import Bounds, EarlierPool, Load, Replicas, Scaler

Market = Callable[[float], int]
PLENTY = 1000
MARKETS: Mapping[str, Market] = {
    "always": lambda _: PLENTY,
    "comes-and-goes": lambda t: 0 if t % (5 * 3600) > 4 * 3600 else 6 if t % 4000 < 900 else PLENTY,
    "never": lambda _: 0,
}
"""Spot nodes at each moment. ``comes-and-goes``: none in every fifth hour, and at most six in a
quarter of the time."""


@dataclass(frozen=True)
class Group:
    """A pool, and the market of its nodes."""

    name: str
    bounds: Bounds
    start_s: float
    price: float = 1.0  # of a replica's hour
    speed: float = 1.0  # of a request, relative to the first class
    market: Market = MARKETS["always"]


@dataclass(eq=False)
class Placed:
    """A replica. It has no node before ``placed_at``, and works from ``ready_at``."""

    placed_at: float = math.inf
    ready_at: float = math.inf
    running: dict[int, float] = field(default_factory=dict)  # request → end


@dataclass(frozen=True)
class Outcome:
    hours: Mapping[str, float]  # of GPUs, by pool
    cost: float
    waits_s: Sequence[float]
    handed_over: int

    def wait_s(self, share: float) -> float:
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Pool:
    """A group while it is simulated."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.scaler = Scaler(group.bounds)
        self.leaves = EarlierPool()
        self.replicas: list[Placed] = []
        self.gpu_s = 0.0

    def ready(self, now: float) -> list[Placed]:
        return [replica for replica in self.replicas if replica.ready_at <= now]

    def place(self, now: float) -> list[Placed]:
        """Give nodes to replicas, or take them away. Returns those that lost theirs."""
        most = self.group.market(now)
        lost: list[Placed] = []
        for number, replica in enumerate(
            sorted(self.replicas, key=lambda placed: placed.placed_at)
        ):
            if number < most and math.isinf(replica.placed_at):
                replica.placed_at, replica.ready_at = now, now + self.group.start_s
            elif number >= most and not math.isinf(replica.placed_at):
                lost.append(replica)
        for replica in lost:
            self.remove(replica, now)
            self.replicas.append(Placed())
        return lost

    def remove(self, replica: Placed, now: float) -> None:
        self.replicas.remove(replica)
        self.gpu_s += max(0.0, now - replica.placed_at) if replica.placed_at <= now else 0.0

    def resize(self, target: int, now: float) -> list[Placed]:
        """Start or stop replicas, as Serve does: first those that do not work yet, or else the
        newest. Returns those that stopped."""
        self.replicas += [Placed() for _ in range(target - len(self.replicas))]
        order = sorted(self.replicas, key=lambda placed: placed.ready_at)
        stopped = order[target:]
        for replica in stopped:
            self.remove(replica, now)
        return stopped


class ChainSimulation:
    """Pools that share one queue, from its first request until all have ended. It starts without
    replicas."""

    def __init__(self, groups: Sequence[Group], requests: Requests) -> None:
        self._pools = [_Pool(group) for group in groups]
        self._requests = requests
        self._queue: deque[int] = deque()
        self._left = list(requests.seconds)
        self._began: dict[int, float] = {}
        self._ends: list[tuple[float, int, Placed]] = []
        self._handed_over = 0
        self._busy_at = 0.0

    def run(self) -> Outcome:
        now, come = 0.0, 0
        arrivals = self._requests.arrivals
        while come < len(arrivals) or self._queue or any(self._running()):
            now += TICK_S
            while come < len(arrivals) and arrivals[come] <= now:
                self._pass_to(arrivals[come])
                self._queue.append(come)
                self._lease(arrivals[come])
                come += 1
            self._pass_to(now)
            self._scale(now)
            self._lease(now)
        for pool in self._pools:
            for replica in list(pool.replicas):
                pool.remove(replica, now)
        hours = {pool.group.name: pool.gpu_s / 3600 for pool in self._pools}
        cost = sum(hours[pool.group.name] * pool.group.price for pool in self._pools)
        waits = [self._began[n] - at for n, at in enumerate(arrivals)]
        return Outcome(hours, cost, waits, self._handed_over)

    def _running(self) -> list[int]:
        return [len(replica.running) for pool in self._pools for replica in pool.replicas]

    def _pass_to(self, now: float) -> None:
        """End requests up to ``now``, each at its own moment, and start others in their place."""
        while self._ends and self._ends[0][0] <= now:
            end, request, replica = heapq.heappop(self._ends)
            if replica.running.get(request) == end:  # else it was handed over
                del replica.running[request]
                self._lease(end)

    def _lease(self, now: float) -> None:
        """Start what is queued: in the first pool with a free slot, on its emptiest replica."""
        for pool in self._pools:
            ready, slots = pool.ready(now), pool.group.bounds.slots
            free = sum(slots - len(placed.running) for placed in ready)
            for _ in range(min(free, len(self._queue))):
                replica = min(ready, key=lambda placed: len(placed.running))
                request = self._queue.popleft()
                self._began.setdefault(request, now)
                end = now + self._left[request] / pool.group.speed
                replica.running[request] = end
                heapq.heappush(self._ends, (end, request, replica))

    def _scale(self, now: float) -> None:
        running = sum(self._running())
        if self._queue or running:
            self._busy_at = now
        queued_s = sum(self._left[request] for request in self._queue)
        load = Load(len(self._queue), running, queued_s, now - self._busy_at)
        for place, pool in enumerate(self._pools):
            group = pool.group
            own = Load(load.queued, load.running, load.queued_s / group.speed, load.idle_s)
            target = pool.scaler.target(own, len(pool.replicas), now)
            ready = Replicas(len(pool.replicas), len(pool.ready(now)))
            if place + 1 < len(self._pools):
                after_s = self._pools[place + 1].group.bounds.overflow_after_s
                load = pool.leaves.remaining_load(group.bounds, own, ready, after_s, now)
            for stopped in (*pool.resize(target, now), *pool.place(now)):
                self._hand_over(stopped, group.speed, now)

    def _hand_over(self, replica: Placed, speed: float, now: float) -> None:
        for request, end in sorted(replica.running.items(), reverse=True):
            self._left[request] = (end - now) * speed + HAND_OVER_S
            self._queue.appendleft(request)
            self._handed_over += 1
        replica.running.clear()


def bounds(options: argparse.Namespace, after_s: float = 0.0, most: int | None = None) -> Bounds:
    return Bounds(
        slots=options.slots,
        least=0,
        most=options.most if most is None else most,
        spare=0,
        keep_alive_s=options.keep_alive,
        target_wait_s=options.target_wait,
        overflow_after_s=after_s,
    )


def spot_chains(options: argparse.Namespace, market: Market) -> Mapping[str, Sequence[Group]]:
    """Ways to use spot nodes of this market, by name."""
    start_s = options.start
    spot = Group("spot", bounds(options), start_s, options.spot_price, market=market)
    chains: dict[str, Sequence[Group]] = {
        "on-demand alone": [Group("on-demand", bounds(options), start_s)],
        "spot alone": [spot],
    }
    for after_s in options.after:
        second = Group("on-demand", bounds(options, after_s), start_s)
        chains[f"spot, on-demand after {after_s:g} s"] = [spot, second]
    return chains


def class_chains(options: argparse.Namespace) -> Mapping[str, Sequence[Group]]:
    """Ways to use a class of few GPUs, and one of many that are half as fast and cost half."""
    few, start_s = max(1, options.most // 4), options.start
    large = Group("large", bounds(options, most=few), start_s)
    small = Group("small", bounds(options), start_s, 0.5, 0.5)
    rest = Group("small", bounds(options, max(options.after)), start_s, 0.5, 0.5)
    return {
        f"{few} large alone": [large],
        "small alone": [small],
        f"{few} large, then small": [large, rest],
    }


def show(label: str, outcome: Outcome) -> None:
    hours = ", ".join(f"{name} {hours:.1f} h" for name, hours in outcome.hours.items())
    waits = ", ".join(f"p{p} {outcome.wait_s(p / 100):.1f}" for p in (50, 95, 99))
    print(
        f"  {label:30} cost {outcome.cost:6.1f} ({hours}); wait {waits} s; "
        f"{outcome.handed_over} handed over",
        flush=True,
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--market", nargs="*", choices=MARKETS, default=[*MARKETS])
    parser.add_argument("--traffic", nargs="*", choices=TRAFFIC, default=["day", "mixed"])
    parser.add_argument("--after", nargs="*", type=float, default=[30.0, 120.0, 300.0])
    parser.add_argument("--keep-alive", type=float, default=300.0, help="seconds")
    parser.add_argument("--target-wait", type=float, default=5.0, help="seconds")
    parser.add_argument("--start", type=float, default=120.0, help="seconds of a cold start")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--most", type=int, default=16, help="replicas of each pool")
    parser.add_argument("--seconds", type=float, default=10.0, help="mean time of a request")
    parser.add_argument("--spot-price", type=float, default=0.4, help="of an on-demand hour")
    parser.add_argument("--hours", type=float, default=DAY_S / 3600, help="of the traffic")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    for traffic in options.traffic:
        requests = make_requests(traffic, options.seconds, options.hours * 3600)
        for market in options.market:
            print(f"{traffic}, {len(requests.arrivals)} requests, spot nodes: {market}")
            for label, groups in spot_chains(options, MARKETS[market]).items():
                if not (market == "never" and label == "spot alone"):
                    show(label, ChainSimulation(groups, requests).run())
        print(f"{traffic}, two classes of GPU")
        for label, groups in class_chains(options).items():
            show(label, ChainSimulation(groups, requests).run())


if __name__ == "__main__":
    main()
