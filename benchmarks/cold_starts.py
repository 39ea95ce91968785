"""What requests wait for while a pool starts, loads, grows, shrinks and is deployed again.

    python -m benchmarks.cold_starts [--rounds 3] [--steps 28] [--only first second lives]

One `darkroom serve` with copies of the demo Flux, each with weights of its own, one slot and one
thread a replica. `first`: a request to a pool without replicas, by the stages that its status
names, and then one that finds the weights loaded. `second`: the first request for another endpoint
while the only slot is taken, in a pool that loads beforehand and in one that does not, in turns:
from the end of the request before it to its own first step. `lives`: from a queue to two replicas,
from the last request to none, a new version of the pool under load, and the end of everything with
a request running. The machine may be busy with other things: compare within one run only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.darkroom import ROOT, Darkroom, eventually

DEMO = ROOT / "deployments" / "demo" / "flux"
KEEP_ALIVE_S = 5.0
LOOK_S = 0.05
POOL: Mapping[str, Any] = {
    "families": ["flux"],
    "slots": 1,
    "threads": 1,
    "num_cpus": 0.1,
    "min_replicas": 1,
    "max_replicas": 1,
}
POOLS: Mapping[str, Mapping[str, Any]] = {
    "first": {**POOL, "min_replicas": 0, "keep_alive_s": KEEP_ALIVE_S},
    "beforehand": POOL,
    "late": {**POOL, "prefetch": False},
    "lives": {
        **POOL,
        "min_replicas": 0,
        "max_replicas": 2,
        "keep_alive_s": KEEP_ALIVE_S,
        "target_wait_s": 0.0,
    },
}


def catalogue(folder: Path, rounds: int) -> Path:
    """A catalogue of copies: as many for each pool as rounds need, and one that is loaded first."""
    endpoints: dict[str, Any] = {}
    for pool in POOLS:
        for number in range(rounds + 1):
            copy = folder / f"{pool}-{number}"
            shutil.copytree(DEMO, copy)
            endpoints[f"{pool}/{number}"] = {
                "family": "flux",
                "schema": "flux-text-to-image",
                "pool": pool,
                "weights": {"directory": str(copy)},
                "bounds": {"num_inference_steps": [1, 1000]},
                "options": {"task": "text-to-image", "native_size": 128, "dtype": "float32"},
            }
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"built_in": False, "endpoints": endpoints}))
    return path


class Bench:
    """A running Darkroom."""

    def __init__(self, darkroom: Darkroom, steps: int) -> None:
        self._darkroom = darkroom
        self._steps = steps

    def submit(self, endpoint: str, steps: int | None = None) -> str:
        body = {"prompt": "a red circle", "num_inference_steps": steps or self._steps}
        answer = self._darkroom.http.post(f"/queue/{endpoint}", json=body)
        answer.raise_for_status()
        return str(answer.json()["request_id"])

    def status(self, endpoint: str, id_: str) -> Mapping[str, Any]:
        answer = self._darkroom.http.get(f"/queue/{endpoint}/requests/{id_}/status")
        answer.raise_for_status()
        return dict(answer.json())

    def stages(self, endpoint: str, id_: str) -> Mapping[str, float]:
        """Seconds that a request is seen in each stage, until its end."""
        durations: defaultdict[str, float] = defaultdict(float)
        before, then = "waiting", time.perf_counter()
        while True:
            status = self.status(endpoint, id_)
            now = time.perf_counter()
            durations[before] += now - then
            then = now
            if status["status"] == "COMPLETED":
                return durations
            details = status["darkroom"]
            before = details.get("stage") or details.get("reason") or before
            time.sleep(LOOK_S)

    def wait_for_success(self, id_: str) -> Mapping[str, Any]:
        return self._darkroom.in_state(id_, "succeeded")

    def until_first_step(self, endpoint: str, id_: str) -> float:
        """The moment, by the wall clock, at which a request begins to compute."""
        computing = {"encoding_text", "denoising", "decoding", "encoding_media", "uploading"}
        while True:
            status = self.status(endpoint, id_)
            if status["status"] == "COMPLETED" or status["darkroom"].get("stage") in computing:
                return datetime.now(UTC).timestamp()
            time.sleep(LOOK_S)

    def replicas(self, pool: str, stage: str = "ready") -> int:
        replicas = self._darkroom.http.get("/v1/status").json()["replicas"]
        return sum(replica["pool"] == pool and replica["stage"] == stage for replica in replicas)

    def first(self, number: int) -> None:
        endpoint = f"first/{number}"
        eventually(lambda: not self._darkroom.replicas("first"), "the pool has no replica")
        for name in ("cold", "hot"):
            show(f"{name} request", self.stages(endpoint, self.submit(endpoint)))

    def second(self, pool: str, number: int) -> float:
        """Seconds from the end of one request to the first step of the next, which is the first for
        its endpoint."""
        ahead = f"{pool}/0"
        before = self.submit(ahead, 20 * self._steps)
        self._darkroom.in_state(before, "running")
        behind = f"{pool}/{number}"
        id_ = self.submit(behind, 20 * self._steps)  # so long that its stages are reported
        began = self.until_first_step(behind, id_)
        self.wait_for_success(id_)
        ended = datetime.fromisoformat(self.wait_for_success(before)["finished_at"])
        return max(0.0, began - ended.timestamp())

    def lives(self, number: int) -> None:
        endpoint = f"lives/{number}"
        eventually(lambda: not self._darkroom.replicas("lives"), "the pool has no replica")
        began = time.perf_counter()
        ids = [self.submit(endpoint, 10 * self._steps) for _ in range(8)]
        timings: dict[str, float] = {}
        for count in (1, 2):
            eventually(lambda n=count: self.replicas("lives") >= n, f"{count} replicas are ready")
            timings[f"{count - 1} to {count}"] = time.perf_counter() - began
        for request_id in ids:
            self.wait_for_success(request_id)
        began = time.perf_counter()
        eventually(lambda: not self._darkroom.replicas("lives"), "the pool has no replica")
        timings["2 to 0, without keep_alive_s"] = time.perf_counter() - began - KEEP_ALIVE_S
        show("pool", timings)

    def redeploy(self, endpoint: str, configure: Any) -> None:
        """A changed setting of a pool, while requests come one after the other."""
        self.wait_for_success(self.submit(endpoint))
        (old,) = self._darkroom.replicas(endpoint.split("/", maxsplit=1)[0])
        began = time.perf_counter()
        configure()
        longest_s, requests = 0.0, 0
        while old.is_running():
            sent = time.perf_counter()
            self.wait_for_success(self.submit(endpoint, 4))
            longest_s, requests = max(longest_s, time.perf_counter() - sent), requests + 1
        timings = {"until the old one is gone": time.perf_counter() - began, "longest": longest_s}
        show(f"deployed again, {requests} requests, none failed", timings)


def show(what: str, seconds: Mapping[str, float]) -> None:
    figures = ", ".join(f"{name} {took:.2f}" for name, took in seconds.items())
    print(f"{what}: {figures} s; load {os.getloadavg()[0]:.0f}", flush=True)


def in_turns(bench: Bench, rounds: int) -> None:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for pool in ("beforehand", "late"):
        bench.wait_for_success(bench.submit(f"{pool}/0"))  # loaded in both
    for number in range(1, rounds + 1):
        for pool in ("beforehand", "late"):
            times[pool].append(bench.second(pool, number))
    medians = {pool: statistics.median(durations) for pool, durations in times.items()}
    show("first request for the second endpoint", medians)
    for pool, pool_times in times.items():
        print(f"    {pool}: {', '.join(f'{took:.2f}' for took in pool_times)}")


def main(arguments: Sequence[str] | None = None) -> None:
    every = ("first", "second", "lives")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--only", nargs="*", choices=every, default=every)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = catalogue(folder, options.rounds)
        darkroom = Darkroom(folder / "data", families="{}", models=str(models))
        pools = {name: dict(pool) for name, pool in POOLS.items()}
        darkroom._settings.pop("DARKROOM_POOLS")  # noqa: SLF001 - of the file, which it follows
        darkroom.configure(pools=pools)
        try:
            darkroom.start(within_s=600)
            bench = Bench(darkroom, options.steps)
            for number in range(1, options.rounds + 1):
                if "first" in options.only:
                    bench.first(number)
            if "second" in options.only:
                in_turns(bench, options.rounds)
            if "lives" in options.only:
                for number in range(1, options.rounds + 1):
                    bench.lives(number)
                pools["late"]["threads"] = 2
                bench.redeploy("late/0", lambda: darkroom.configure(pools=pools))
                id_ = bench.submit("beforehand/0", 1000)
                darkroom.in_state(id_, "running")
                began = time.perf_counter()
                darkroom.stop()
                show("stopped with a request running", {"took": time.perf_counter() - began})
        finally:
            darkroom.clear_away()


if __name__ == "__main__":
    main()
