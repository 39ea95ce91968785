"""Discrete events: stations with a number of cores, each with one queue, and the work they do."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

Then = Callable[[float], None]
"""Continuation, called with the time at which the work was done."""


class Events:
    """Calendar of a simulation, in seconds."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Then]] = []
        self._number = count()
        self.now = 0.0

    def at(self, time: float, then: Then) -> None:
        heapq.heappush(self._due, (time, next(self._number), then))

    def run_until(self, end: float) -> None:
        """Call everything that is due before ``end``, in the order of time."""
        while self._due and self._due[0][0] < end:
            self.now, _, then = heapq.heappop(self._due)
            then(self.now)
        self.now = end


@dataclass(slots=True)
class Station:
    """Processes with ``cores`` cores and one queue, first come first served."""

    events: Events
    cores: int
    come: int = 0
    done: int = 0
    waits_s: list[float] = field(default_factory=list[float])
    _ended_s: float = 0.0  # of work that has ended
    _began: dict[int, float] = field(default_factory=dict[int, float])  # of work under way
    _queue: deque[tuple[float, float, Then]] = field(
        default_factory=deque[tuple[float, float, Then]]
    )

    def work(self, cost_ms: float, then: Then) -> None:
        """Do work of ``cost_ms`` as soon as a core is free, then call ``then``."""
        self.come += 1
        self._queue.append((self.events.now, cost_ms / 1000, then))
        self._begin()

    def use(self, seconds: float) -> float:
        """Share of the cores' time until now, which is ``seconds``, in which they worked."""
        under_way_s = sum(self.events.now - start for start in self._began.values())
        return (self._ended_s + under_way_s) / (self.cores * seconds)

    @property
    def inside(self) -> int:
        """Work that has come and is not done."""
        return len(self._queue) + len(self._began)

    @property
    def p99_wait_ms(self) -> float:
        """Wait before the work began, in milliseconds; 1 % waited longer."""
        ordered = sorted(self.waits_s)
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0

    def _begin(self) -> None:
        while self._queue and len(self._began) < self.cores:
            came_at, seconds, then = self._queue.popleft()
            number = len(self.waits_s)
            self._began[number] = self.events.now
            self.waits_s.append(self.events.now - came_at)

            def end(
                now: float, number: int = number, seconds: float = seconds, then: Then = then
            ) -> None:
                del self._began[number]
                self.done += 1
                self._ended_s += seconds
                then(now)
                self._begin()

            self.events.at(self.events.now + seconds, end)
