"""What is measured of a queue, the same for each. Standard library only: peers import it in venvs
of their own.

The work is nothing at all: what is measured is the queue. Clocks are the machine's monotonic one,
which all of its processes share.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol


@dataclass
class Figures:
    submit_per_s: float
    submit_p50_ms: float
    finish_per_s: float  # leased, run and finished
    finish_cpu_ms: float  # of each, of all processes: the server's, and those that run it
    start_p50_ms: float | None  # submit → begun, one at a time, with nothing else queued


class System(Protocol):
    """A queue with ``callers`` that submit and as many slots."""

    async def fill(self, waiting: int) -> None:
        """Have so many queued, by whatever way is fast, and nothing else; before any work."""
        ...

    async def waits(self) -> int:
        """How many."""
        ...

    async def submit(self, sent: float) -> None:
        """One, durably. ``sent``: now, which its run receives."""
        ...

    async def start(self) -> None:
        """Start those that run what is queued."""
        ...

    async def stop(self) -> None: ...

    async def finished_count(self) -> int:
        """How many, ever."""
        ...

    async def delays(self) -> list[float]:
        """From ``sent`` to the beginning of the run, in seconds, of the last ones."""
        ...


async def measure(
    system: System, waiting: int, seconds: float, callers: int, server: int
) -> Figures:
    """``server``: the process of the database, by its id."""
    await system.fill(waiting)
    took: list[float] = []
    began = time.monotonic()
    await asyncio.gather(*(_submit(system, began + seconds, took) for _ in range(callers)))
    submit_per_s = len(took) / (time.monotonic() - began)
    await system.start()
    done = await _until_some(system)
    began, cpu_s = time.monotonic(), _cpu_s(server, os.getpid())
    await asyncio.sleep(seconds)  # while it works
    done, took_s = await system.finished_count() - done, time.monotonic() - began
    finish_per_s = done / took_s
    finish_cpu_ms = 1e3 * (_cpu_s(server, os.getpid()) - cpu_s) / max(1, done)
    start_p50_ms = None
    if waiting == 0:
        while await system.waits():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        start_p50_ms = await _start_p50_ms(system, seconds)
    await system.stop()
    submit_p50_ms = statistics.median(took) * 1e3
    return Figures(submit_per_s, submit_p50_ms, finish_per_s, finish_cpu_ms, start_p50_ms)


def report(figures: Figures) -> None:
    """As the last line of a peer's output."""
    print(json.dumps(asdict(figures)), flush=True)


def _cpu_s(*roots: int) -> float:
    """What these processes have used, all that they started, and those of them that ended."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended
        pid = int(file.parent.name)
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    ticks, left = 0, [*roots]
    while left:
        pid = left.pop()
        ticks += used.get(pid, 0)
        left += [child for child, parent in parents.items() if parent == pid]
    return ticks / os.sysconf("SC_CLK_TCK")


async def _submit(system: System, until: float, took: list[float]) -> None:
    while (began := time.monotonic()) < until:
        await system.submit(began)
        took.append(time.monotonic() - began)


async def _until_some(system: System, patience_s: float = 120.0) -> int:
    before = await system.finished_count()
    async with asyncio.timeout(patience_s):
        while (done := await system.finished_count()) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return done


async def _start_p50_ms(system: System, seconds: float) -> float:
    await system.delays()  # of before
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end:
        before = await system.finished_count()
        await system.submit(time.monotonic())
        sent += 1
        while await system.finished_count() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return statistics.median((await system.delays())[-sent:]) * 1e3
