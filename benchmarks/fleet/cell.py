"""One cell: a Ray cluster and a database, with its GPUs, under a load of requests."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from benchmarks.fleet.costs import Costs
from benchmarks.fleet.stations import Events, Station, Then


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a cell and of its load."""

    gpus: int
    ingresses: int = 4
    database_cores: int = 16
    slots: int = 8  # of a GPU, which is a replica
    request_s: float = 5.0  # of a slot, at the mean
    load: float = 0.7  # share of the slots that requests ask for
    report_s: float = 2.0  # between reports of a replica that nobody follows
    followed: float = 0.1  # share of the replicas with a followed request: reports twice a second
    follows: int = 4  # statuses and events that a client reads of a request

    @property
    def requests_per_s(self) -> float:
        return self.load * self.gpus * self.slots / self.request_s


@dataclass(frozen=True, slots=True)
class Result:
    """What happened within ``seconds``."""

    seconds: float
    submitted: int
    ended: int
    queued: int  # stored, without a lease
    running: int
    running_at_start: int
    in_control_plane: int  # submits, leases and ends under way
    stations: dict[str, Station]
    slot_use: float  # share of the slots' time with a running request

    @property
    def keeps_up(self) -> bool:
        """True if no station is full."""
        return all(station.use(self.seconds) < 0.95 for station in self.stations.values())


class Cell:
    """Requests come at random, are submitted, leased by a replica with a free slot, run, and end.
    As many run at the start as will at the mean."""

    def __init__(self, shape: Shape, costs: Costs, seed: int = 1) -> None:
        self._shape = shape
        self._costs = costs
        self._chance = random.Random(seed)
        self._events = events = Events()
        self._ingresses = [Station(events, 1) for _ in range(shape.ingresses)]
        self._database = Station(events, shape.database_cores)
        self._control_store = Station(events, 1)
        self._free = shape.gpus * shape.slots
        self._queue: deque[int] = deque()
        self._submitted = self._ended = self._running = self._moving = 0
        self._slot_s = self._counted_to = 0.0

    def run(self, seconds: float) -> Result:
        self._next_request(0.0)
        at_start = round(self._shape.load * self._free)
        self._free -= at_start
        for _ in range(at_start):
            self._moving += 1
            self._run(0.0)
        for replica in range(self._shape.gpus):
            period = 0.5 if replica < self._shape.followed * self._shape.gpus else None
            self._report(self._chance.uniform(0, period or self._shape.report_s), replica, period)
        for number in range(self._shape.ingresses):
            self._chores(self._chance.random(), number)
        self._events.run_until(seconds)
        self._count(seconds)
        stations = {f"ingress {n}": ingress for n, ingress in enumerate(self._ingresses)}
        stations |= {"database": self._database, "control store": self._control_store}
        slots = self._shape.gpus * self._shape.slots
        return Result(
            seconds=seconds,
            submitted=self._submitted,
            ended=self._ended,
            queued=len(self._queue),
            running=self._running,
            running_at_start=at_start,
            in_control_plane=self._moving,
            stations=stations,
            slot_use=self._slot_s / (slots * seconds),
        )

    def _next_request(self, now: float) -> None:
        rate = self._shape.requests_per_s
        if rate:
            self._events.at(now + self._chance.expovariate(rate), self._submit)

    def _submit(self, now: float) -> None:
        self._next_request(now)
        self._submitted += 1
        self._moving += 1
        costs = self._costs

        def stored(_: float) -> None:
            self._moving -= 1
            self._queue.append(self._submitted)
            self._lease()

        self._call(costs.http.ingress + costs.submit.ingress, costs.submit.database, stored)

    def _lease(self) -> None:
        while self._queue and self._free:
            self._queue.popleft()
            self._free -= 1
            self._moving += 1
            costs = self._costs
            # A poll waits at the ingress, so its call counts like the lease.
            self._call(costs.line.ingress + costs.lease.ingress, costs.lease.database, self._run)

    def _run(self, now: float) -> None:
        self._count(now)
        self._moving -= 1
        self._running += 1
        run_s = self._chance.expovariate(1 / self._shape.request_s)
        self._events.at(now + run_s, self._end)
        for number in range(1, self._shape.follows + 1):
            at = now + run_s * number / self._shape.follows
            self._events.at(at, lambda _: self._call(self._costs.follow.ingress, 0.0, _done))

    def _end(self, now: float) -> None:
        self._count(now)
        self._running -= 1
        self._moving += 1
        self._free += 1
        costs = self._costs

        def ended(_: float) -> None:
            self._moving -= 1
            self._ended += 1

        self._call(costs.line.ingress + costs.finish.ingress, costs.finish.database, ended)
        self._lease()

    def _report(self, at: float, replica: int, period: float | None) -> None:
        def send(now: float) -> None:
            self._report(now + (period or self._shape.report_s), replica, period)
            costs = self._costs
            ingress = costs.line.ingress + costs.report.ingress
            self._call(ingress, costs.report.database, _done)

        self._events.at(at, send)

    def _chores(self, at: float, number: int) -> None:
        def work(now: float) -> None:
            self._chores(now + 1.0, number)
            costs = self._costs
            # One ingress reads the list of actors for all.
            actors = 0 if number else self._shape.gpus
            self._ingresses[number].work(
                costs.chores.ingress + actors * costs.liveness.ingress, _done
            )
            self._database.work(costs.chores.database, _done)
            if actors:
                self._control_store.work(actors * costs.liveness.control_store, _done)

        self._events.at(at, work)

    def _call(self, ingress_ms: float, database_ms: float, then: Then) -> None:
        """A call at a random ingress, and its statement in the database."""

        def in_database(now: float) -> None:
            if database_ms:
                self._database.work(database_ms, then)
            else:
                then(now)

        self._chance.choice(self._ingresses).work(ingress_ms, in_database)

    def _count(self, now: float) -> None:
        self._slot_s += self._running * (now - self._counted_to)
        self._counted_to = now


def _done(_: float) -> None:
    """Nothing follows."""
