"""What is measured of a queue, the same for each. Standard library only: peers import it in venvs
of their own.

The work is nothing at all: what is measured is the queue. Clocks are the machine's monotonic one,
which all of its processes share.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Protocol


@dataclass
class Figures:
    submit_per_s: float
    submit_p50_ms: float
    finish_per_s: float  # leased, run and finished
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
        """One, durably. ``sent``: now, which its run is told."""
        ...

    async def start(self) -> None:
        """Start those that run what is queued."""
        ...

    async def stop(self) -> None: ...

    async def finished(self) -> int:
        """How many, ever."""
        ...

    async def delays(self) -> list[float]:
        """From ``sent`` to the beginning of the run, in seconds, of the last ones."""
        ...


async def measure(system: System, waiting: int, seconds: float, callers: int) -> Figures:
    await system.fill(waiting)
    took: list[float] = []
    began = time.monotonic()
    await asyncio.gather(*(_submit(system, began + seconds, took) for _ in range(callers)))
    submit_per_s = len(took) / (time.monotonic() - began)
    await system.start()
    done = await _until_some(system)
    began = time.monotonic()
    await asyncio.sleep(seconds)  # while it works
    finish_per_s = (await system.finished() - done) / (time.monotonic() - began)
    start_p50_ms = None
    if waiting == 0:
        while await system.waits():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        start_p50_ms = await _start_p50_ms(system, seconds)
    await system.stop()
    return Figures(submit_per_s, statistics.median(took) * 1e3, finish_per_s, start_p50_ms)


def report(figures: Figures) -> None:
    """As the last line of a peer's output."""
    print(json.dumps(asdict(figures)), flush=True)


async def _submit(system: System, until: float, took: list[float]) -> None:
    while (began := time.monotonic()) < until:
        await system.submit(began)
        took.append(time.monotonic() - began)


async def _until_some(system: System, patience_s: float = 120.0) -> int:
    before = await system.finished()
    async with asyncio.timeout(patience_s):
        while (done := await system.finished()) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return done


async def _start_p50_ms(system: System, seconds: float) -> float:
    await system.delays()  # of before
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end:
        before = await system.finished()
        await system.submit(time.monotonic())
        sent += 1
        while await system.finished() == before:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return statistics.median((await system.delays())[-sent:]) * 1e3
