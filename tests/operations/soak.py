"""Load for a long time, with the memory of each process."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.bad_days.installation import TITLES
from tests.operations.comparison import Outcome, under_load
from tests.operations.site import Plan, Site, site

SAMPLE_S = 10.0
WARM_UP = 1 / 3
"""Share of the time that is not judged."""
FLAT_MIB = 10.0
"""Growth after the warm-up that is called flat, of processes of 100 MiB and more."""
MIB = 2**20

Samples = dict[tuple[str, int], list[tuple[float, float]]]


def soak(folder: Path, minutes: float) -> Iterator[Outcome]:
    with site(folder, Plan()) as running:

        def go_on(running: Site) -> Iterator[str]:
            samples: Samples = defaultdict(list)
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                _sample(running, samples)
                time.sleep(SAMPLE_S)
            growing: list[str] = []
            for (part, pid), series in sorted(samples.items()):
                judged = [
                    sample for sample in series if sample[0] > end - minutes * 60 * (1 - WARM_UP)
                ]
                slope, _ = statistics.linear_regression(*zip(*judged, strict=True))
                grown = slope * (judged[-1][0] - judged[0][0])
                summary = f"{part} {series[-1][1]:.0f} MiB, {slope * 3600:+.1f} MiB/h"
                yield summary
                if grown > FLAT_MIB:
                    growing.append(f"{summary}, process {pid}")
            assert not growing, f"not flat: {growing}"

        yield under_load(running, f"soak, {minutes:g} minutes", go_on)


def _sample(running: Site, samples: Samples) -> None:
    for part in (*TITLES, "haproxy"):
        for process in running.place.parts(part):
            try:
                memory = process.memory_info()
            except psutil.NoSuchProcess:
                continue
            own = (memory.rss - memory.shared) / MIB  # without the object store and libraries
            samples[part, process.pid].append((time.monotonic(), own))
