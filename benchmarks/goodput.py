"""What is still served at ten times what can be: a share of the pace without a crowd.

    python -m benchmarks.goodput [--seconds 10] [--rounds 3] [--times 10] [--takes-ms 200]

One `darkroom serve`, one replica, requests that take so long of it, one after the other; callers
submit over HTTP, each at its pace whatever it is answered. In turn: what the replica does of a full
queue while no one calls, the same among the crowd, and among a crowd that waits as `Retry-After`
says. Callers and server share the machine, so what the crowd costs is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import AT_ONCE, Figures, Pace, measure, post
from tests.cluster.darkroom import Darkroom, eventually

MODELS = Path(__file__).parent / "models.yaml"
FAMILIES = dict.fromkeys(("probe", "long", "parked"), "tests.fakes.family:ProbeFamily")
POOLS = {"noop": {"families": ["probe"], "slots": 4, "num_cpus": 0.1}}
CAP, CLIENTS = 100, 40

ENDED = "SELECT count(*) FROM requests WHERE state = 'succeeded'"
LEFT = "SELECT count(*) FROM requests WHERE outcome IS NULL"


@dataclass(frozen=True)
class Window:
    """``rate``: requests that ended well, a second, while ``load`` was there."""

    rate: float
    load: Figures | None = None

    def summary(self) -> str:
        if self.load is None:
            return ""
        waits_s = self.load.refused_s
        others = self.load.errors - len(waits_s)
        return (
            f"{self.load.rate:7.0f} submits/s, p50 {self.load.p50_ms:.1f} ms, refused "
            f"{len(waits_s) / max(1, len(waits_s) + self.accepted_count):.0%} with Retry-After "
            f"{statistics.median(waits_s or [0]):.0f} s, {others} other errors"
        )

    @property
    def accepted_count(self) -> int:
        return 0 if self.load is None else self.load.answers - self.load.errors


class Bench:
    def __init__(self, darkroom: Darkroom, seconds: float, takes_ms: float) -> None:
        self._darkroom = darkroom
        self._seconds = seconds
        host = f"127.0.0.1:{darkroom.port}"
        key = f"Key {darkroom.key}"
        body = json.dumps({"steps": 1, "step_ms": takes_ms}).encode()
        self._request = post("/queue/test/noop", host, body, Authorization=key)

    def measure_without_crowd(self) -> Window:
        self._fill()
        return self._window(lambda: time.sleep(self._seconds))

    def among(self, pace: Pace) -> Window:
        self._fill()
        return self._window(lambda: self._submit(pace, self._seconds))

    def memory_mib(self) -> float:
        return (
            sum(replica.memory_info().rss for replica in self._darkroom.replicas("ingress")) / 2**20
        )

    def drain(self) -> None:
        eventually(lambda: self._count(LEFT) == 0, "the queue is empty", within_s=120)

    def _fill(self) -> None:
        self._submit(AT_ONCE, 0.5)
        while self._count(LEFT) < 0.9 * CAP:
            self._submit(AT_ONCE, 0.5)

    def _window(self, act: Callable[[], Figures | None]) -> Window:
        before, began = self._count(ENDED), time.perf_counter()
        load = act()
        ended = self._count(ENDED) - before
        return Window(ended / (time.perf_counter() - began), load)

    def _submit(self, pace: Pace, seconds: float) -> Figures:
        return measure("127.0.0.1", self._darkroom.port, self._request, CLIENTS, seconds, pace)

    def _count(self, query: str) -> int:
        ((count,),) = self._darkroom.sql(query)
        return int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--takes-ms", type=float, default=200.0, help="a request, of the replica")
    parser.add_argument("--times", type=float, default=10.0, help="what the replica can do")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        darkroom = Darkroom(
            Path(scratch) / "data",
            POOLS,
            families=json.dumps(FAMILIES),
            models=str(MODELS),
            max_waiting=str(CAP),
        ).start(within_s=300)
        try:
            run_rounds(darkroom, options)
            darkroom.stop()
        finally:
            darkroom.clear_away()


def run_rounds(darkroom: Darkroom, options: argparse.Namespace) -> None:
    bench = Bench(darkroom, options.seconds, options.takes_ms)
    answer = darkroom.http.post("/run/test/noop", json={"steps": 0})
    assert answer.status_code == 200, answer.text
    bench.measure_without_crowd()  # what is done once is done
    shares: dict[str, list[float]] = {"crowd": [], "crowd that obeys": []}
    for _ in range(options.rounds):
        alone = bench.measure_without_crowd()
        show("no crowd", alone)
        every_s = CLIENTS / (options.times * alone.rate)
        before = bench.memory_mib()
        for name, obeys in (("crowd", False), ("crowd that obeys", True)):
            window = bench.among(Pace(every_s, obeys))
            shares[name].append(window.rate / alone.rate)
            show(name, window)
        print(f"{'ingress':<18}{before:7.1f} MiB before, {bench.memory_mib():.1f} MiB after")
    bench.drain()
    for name, series in shares.items():
        print(f"{name}: {statistics.median(series):.2f} of the pace without it")


def show(what: str, window: Window) -> None:
    load = os.getloadavg()[0]
    print(f"{what:<18}{window.rate:7.1f} ended/s {window.summary()} (load {load:.1f})", flush=True)


if __name__ == "__main__":
    main()
