"""Many watchers of requests over HTTP, as the page and programs watch: what they cost a whole
Darkroom with one ingress, and how soon they are notified.

    python -m benchmarks.watchers_over_http [--watchers 2000] [--rounds 3]

Each reads `/v1/requests/{id}/events` of a queued request of its own, through the proxy. Each round
all of them come, watch for some seconds while nothing happens, some hear of an end, and all go.
Memory is the ingress's own, beyond what it had before the first round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx2
import psutil

from tests.cluster.darkroom import PROBE, Darkroom

STILL_S = 10.0
NOTIFIED = 20
PATIENCE_S = 300.0


class Watcher:
    def __init__(self, http: httpx2.AsyncClient, request_id: str) -> None:
        self.request_id = request_id
        self._http = http
        self.measuring = asyncio.Event()
        self.notified = asyncio.Event()

    async def run(self) -> None:
        async with self._http.stream("GET", f"/v1/requests/{self.request_id}/events") as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                self.measuring.set()
                if "cancelled" in line:
                    self.notified.set()
                    return


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def notified_after_ms(http: httpx2.AsyncClient, watcher: Watcher) -> float:
    began = time.monotonic()
    await http.put(f"{PROBE}/requests/{watcher.request_id}/cancel")
    async with asyncio.timeout(PATIENCE_S):
        await watcher.notified.wait()
    return 1e3 * (time.monotonic() - began)


async def measure(http: httpx2.AsyncClient, ingress: psutil.Process, ids: list[str], had: int):
    watchers = [Watcher(http, request_id) for request_id in ids]
    tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(watcher.measuring.wait() for watcher in watchers))
    came_s = time.monotonic() - began
    cpu = cpu_s(ingress)
    await asyncio.sleep(STILL_S)
    share = (cpu_s(ingress) - cpu) / STILL_S
    grown = (ingress.memory_info().rss - had) / 2**20
    delays = [await notified_after_ms(http, watcher) for watcher in watchers[:NOTIFIED]]
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    broken = [outcome for outcome in ends if isinstance(outcome, Exception)]
    print(
        f"{len(watchers)} watchers came in {came_s:.1f} s, {len(broken)} broke off; "
        f"{100 * share:.0f} % of a core, {grown:.0f} MiB more; "
        f"notified after {statistics.median(delays):.0f} ms, at most {max(delays):.0f} ms",
        flush=True,
    )


async def main(options: argparse.Namespace, darkroom: Darkroom) -> None:
    most = httpx2.Limits(max_connections=options.watchers + 8, max_keepalive_connections=8)
    headers = {"Authorization": f"Key {darkroom.key}"}
    async with httpx2.AsyncClient(
        base_url=darkroom.url, headers=headers, timeout=120, limits=most
    ) as http:

        async def submitted(**probe: int) -> str:
            return (await http.post(PROBE, json=probe)).json()["request_id"]

        for _ in range(2):  # as many as the pool has slots
            await submitted(steps=1_000_000, step_ms=20)
        ids = [
            await submitted(steps=1) for _ in range(options.watchers + options.rounds * NOTIFIED)
        ]
        (ingress,) = darkroom.replicas("ingress")
        had = ingress.memory_info().rss
        for number in range(options.rounds):
            await measure(http, ingress, ids[number * NOTIFIED :][: options.watchers], had)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--watchers", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    pool = {"families": ["probe"], "slots": 2, "num_cpus": 0.1, "min_replicas": 1}
    room = {"max_waiting": "100000", "max_waiting_per_tenant": "100000"}
    with tempfile.TemporaryDirectory(prefix="dkw") as scratch:
        started = Darkroom(Path(scratch) / "data", {"studio": pool}, **room).start()
        try:
            started.all_ready(1)
            asyncio.run(main(asked, started))
            started.stop()
        finally:
            started.clear_away()
