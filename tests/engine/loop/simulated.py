"""A device with a clock of its own, on which the engine's own rules choose who goes on."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import inf
from statistics import mean

from deployments.engine.loop.merge_history import BusyPeriod, ForwardTimes, StepDemand, due_at
from deployments.engine.loop.step_batcher import Candidate, StepBatcher


def compute_bound(rows):  # such as FLUX at 1024 px
    return 0.1 * (0.06 + 0.94 * rows)


def launch_bound(rows):  # as long as there are four at most
    return 0.04 * max(1, rows / 4)


def between(rows):
    return 0.05 * (0.45 + 0.55 * rows)


def flattening(rows):  # the demo Flux on one core of an EPYC: gains little a row, but up to 16
    return 0.0083 + 0.0028 * rows


DEVICES = [compute_bound, launch_bound, between]


@dataclass(eq=False)
class Request:
    arrives: float
    steps: int
    number: int = 0
    left: int = 0
    last_turn: int = 0
    done: float = 0.0

    @property
    def latency(self):
        return self.done - self.arrives


@dataclass
class Device:
    seconds: object  # of a forward with so many rows
    merges_all: bool = False
    max_batch: int = 8
    places: int = 32
    times: ForwardTimes = field(default_factory=ForwardTimes)
    demand: StepDemand = field(default_factory=StepDemand)
    busy: BusyPeriod = field(default_factory=BusyPeriod)
    batcher: StepBatcher = field(default_factory=StepBatcher)
    now: float = 0.0
    turn: int = 0
    batches: list = field(default_factory=list)

    def learn(self):
        """Measure all that there is to know."""
        for _ in range(3):
            for rows in (1, 2, 4, 8):
                self.times.record(rows, self.seconds(rows))
        return self

    def run(self, requests):
        waiting = sorted(requests, key=lambda arrival: arrival.arrives)
        for number, request in enumerate(waiting):
            request.number, request.left = number, request.steps
        running = []
        while waiting or running:
            if not running and waiting[0].arrives > self.now:
                self.busy.idle(self.now)
                self.now = waiting[0].arrives
            while waiting and waiting[0].arrives <= self.now and len(running) < self.places:
                running.append(self._begun(waiting.pop(0)))
            self._turn(running)
            running = [member for member in running if member.left]
        return requests

    def serve(self, clients, requests):
        """Let each client take the next of ``requests`` as soon as its last one is done."""
        running, waiting = [], list(requests)
        for number, request in enumerate(waiting):
            request.number, request.left = number, request.steps
        while waiting or running:
            while waiting and len(running) < clients:
                request = waiting.pop(0)
                request.arrives = self.now
                running.append(self._begun(request))
            self._turn(running)
            running = [member for member in running if member.left]
        return requests

    def _begun(self, request):
        request.last_turn = self.turn
        self.demand.add(self.times, request.steps, self.now)
        return request

    def _turn(self, running):
        self.turn += 1
        most = min(self.max_batch, len(running))
        if not self.merges_all:
            self.busy.has(len(running), self.now)
            load = inf if self.busy.is_sustained else self.demand.load(self.now, self.max_batch)
            most = self.times.unknown(most) or self.times.limit(most, load)
        alone = self.times.seconds(1) or 0.0
        candidates = [
            Candidate(
                member.number,
                0,
                member.last_turn,
                "the same",
                due_at=float("inf")
                if self.merges_all
                else due_at(member.arrives, member.steps * alone),
                remaining=member.left,
                max_calls=most,
            )
            for member in running
        ]
        chosen = {
            choice.generation for choice in self.batcher.choose(candidates, self.turn, self.now)
        }
        seconds = self.seconds(len(chosen))
        self.times.record(len(chosen), seconds)
        self.batches.append(len(chosen))
        self.now += seconds
        for request in running:
            if request.number in chosen:
                request.left -= 1
                request.last_turn = self.turn
                request.done = self.now
                if not request.left:
                    self.busy.count_generation()


def burst(count=8, steps=28, at=0.0):
    return [Request(at, steps) for _ in range(count)]


def poisson(load, seconds, steps, count=500, seed=7):
    """Arrivals that take ``load`` of the device's best throughput."""
    draw = random.Random(seed)  # noqa: S311
    best = max(rows / seconds(rows) for rows in range(1, 9))
    at, requests = 0.0, []
    for _ in range(count):
        at += draw.expovariate(load * best / mean(steps))
        requests.append(Request(at, draw.choice(steps)))
    return requests


def mean_latency(requests):
    return mean(request.latency for request in requests)
