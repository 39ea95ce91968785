"""Cost of the list of living actors, by their number: real actors, which do nothing.

    python -m benchmarks.actor_list [--actors 5 20 60] [--lists 200]

One ingress of a cluster reads the list each second. Time is CPU time as the operating system counts
it: of Ray's control store, and of this process, which reads the list as an ingress does. Each actor
is a process of its own, with 40 MB and 0.6 % of a core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import psutil
import ray

from benchmarks.cpu import seconds_of
from serve_app.scaling.liveness import RayActorTable

SETTLE_S = 15.0


@ray.remote(num_cpus=0)
class Empty:
    def ready(self) -> None: ...


def measure(number: int, lists: int) -> None:
    """One line of the table."""
    table = RayActorTable()
    own = [psutil.Process()]
    store = [process for process in own[0].children() if "gcs_server" in process.cmdline()[0]]
    began, idle = time.monotonic(), seconds_of(store)
    time.sleep(SETTLE_S)
    idle_share = (seconds_of(store) - idle) / (time.monotonic() - began)
    began, before = time.monotonic(), (seconds_of(store), seconds_of(own))
    counts = {len(table.alive()) for _ in range(lists)}
    if counts != {number}:
        raise RuntimeError(f"The list has {sorted(counts)} of {number} actors")
    took_s = time.monotonic() - began
    in_store = 1000 * (seconds_of(store) - before[0] - idle_share * took_s) / lists
    in_reader = 1000 * (seconds_of(own) - before[1]) / lists
    print(f"{number:8}{in_store:16.2f}{in_reader:16.2f}{100 * idle_share:12.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, nargs="+", default=[5, 20, 60])
    parser.add_argument("--lists", type=int, default=200, help="reads at each number of actors")
    options = parser.parse_args()
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # noqa: TID251 read by Ray
    with tempfile.TemporaryDirectory(prefix="a") as folder:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=2**27,
            _temp_dir=folder,
        )
        try:
            actors: list[Any] = []
            print(f"{'actors':>8}{'store, ms':>16}{'reader, ms':>16}{'store idle %':>13}")
            for number in sorted(options.actors):
                while len(actors) < number:
                    actors.append(Empty.remote())
                    ray.get(actors[-1].ready.remote())
                measure(number, options.lists)
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
