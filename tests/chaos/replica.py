"""A replica that can die, or stand still, at any point of its work."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.lease import Finish, Lease, LeaseKey, SignalKind, Verdict
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Queue
from tests.chaos.history import History
from tests.fakes.liveness import FakeLiveness
from tests.queue.requests import ask, failure, report

T = TypeVar("T")


class Point(Enum):
    """Where a test may have a replica die."""

    LEASED = "leased"  # before its first report
    STEPPING = "stepping"
    UPLOADED = "uploaded"  # before it hands in


@dataclass
class House:
    """What replicas share: the ways to the queue, a storage, and what is written down of them."""

    queues: Sequence[Queue]
    liveness: FakeLiveness
    history: History = field(default_factory=History)
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311

    async def insist(self, act: Callable[[Queue], Awaitable[T]], patience_s: float = 60.0) -> T:
        """The answer of any ingress, however often that takes."""
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    return await act(self.random.choice(self.queues))
                except DatabaseUnavailable:
                    await asyncio.sleep(0.05)


class Replica:
    """Runs what it gets until it dies. ``dies_at``: once it comes there; a request whose input says
    ``deadly`` has it die at its first step. Each step takes ``step_s``."""

    def __init__(
        self,
        house: House,
        name: str,
        *,
        slots: int = 2,
        steps: int = 3,
        step_s: float = 0.01,
        dies_at: Point | None = None,
    ) -> None:
        self._house = house
        self.name = name
        self._slots = slots
        self._steps = steps
        self._step_s = step_s
        self._dies_at = dies_at
        self._runs: dict[LeaseKey, asyncio.Task[None]] = {}
        self._uploaded: dict[LeaseKey, str] = {}
        self._handed_in: set[LeaseKey] = set()
        self._moving = asyncio.Event()
        self._moving.set()
        self._task: asyncio.Task[None] | None = None
        self.dead = asyncio.Event()
        self.fenced: list[LeaseKey] = []

    def start(self) -> Replica:
        self._task = asyncio.create_task(self._live())
        return self

    def freeze(self) -> None:
        """Stand still, as under SIGSTOP."""
        self._moving.clear()

    def thaw(self) -> None:
        self._moving.set()

    def die(self) -> None:
        """As by SIGKILL: nothing more is done, and Ray knows."""
        self._house.liveness.buried.add(f"actor-{self.name}")
        self.dead.set()
        for task in (self._task, *self._runs.values()):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    async def __aenter__(self) -> Replica:
        return self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        tasks = [task for task in (self._task, *self._runs.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _live(self) -> None:
        while not self.dead.is_set():
            capacity = ask(self._slots - len(self._runs), *self._runs, replica=self.name)
            work = await self._house.insist(lambda queue: queue.ask(capacity))  # noqa: B023
            await self._moving.wait()
            for lease in work.leases:
                self._house.history.note_lease(lease)
                task = asyncio.create_task(self._run(lease))
                self._runs[lease.key] = task
                task.add_done_callback(
                    lambda _, lease_key=lease.key: self._runs.pop(lease_key, None)
                )
            for signal in work.signals:
                key = signal.lease_key
                # Once it hands in, the answer to that says so.
                if key not in self._runs or key in self._handed_in:
                    continue
                self._runs[key].cancel()
                if signal.kind is SignalKind.FENCED:
                    self._drop(key)
                else:
                    await self._hand_in(key, failure("cancelled"))
            await asyncio.sleep(0)  # an ingress that closes answers at once

    async def _run(self, lease: Lease) -> None:
        if self._dies_here(Point.LEASED):
            return
        for _ in range(self._steps):
            if not await self._step(lease):
                return
        artifacts = [self._upload(lease.key, ticket.key) for ticket in lease.upload_tickets]
        if self._dies_here(Point.UPLOADED):
            return
        outcome = Outcome(
            output={"by": self.name}, artifacts=tuple(artifacts), usage=Usage(0.1, self._steps, 1.0)
        )
        await self._hand_in(lease.key, outcome)

    async def _step(self, lease: Lease) -> bool:
        """Whether it still holds the lease after it."""
        renewal = report(lease.key, replica=self.name)
        reply = await self._house.insist(lambda queue: queue.report(renewal))
        if reply.fenced:
            self._drop(lease.key)
            return False
        if lease.input.get("deadly"):
            self.die()
            return False
        await asyncio.sleep(self._step_s)
        await self._moving.wait()
        return not self._dies_here(Point.STEPPING)

    def _upload(self, lease_key: LeaseKey, key: str) -> Artifact:
        content = f"{key} by {self.name}".encode()
        self._uploaded[lease_key] = key
        self._house.objects[key] = content
        return Artifact(key, "image/png", len(content), hashlib.sha256(content).hexdigest())

    async def _hand_in(self, lease_key: LeaseKey, outcome: Outcome) -> Verdict:
        self._handed_in.add(lease_key)
        finish = Finish(lease_key, self.name, outcome)
        verdict = await self._house.insist(lambda queue: queue.finish(finish))
        if verdict is Verdict.FENCED:
            self._drop(lease_key)
        elif outcome.succeeded:
            self._house.history.finished.append(lease_key)
        return verdict

    def _drop(self, lease_key: LeaseKey) -> None:
        """Its lease is lost: what it uploaded is no one's."""
        self.fenced.append(lease_key)
        self._house.objects.pop(self._uploaded.get(lease_key, ""), None)

    def _dies_here(self, point: Point) -> bool:
        if self._dies_at is point:
            self.die()
        return self.dead.is_set()


class Keeper:
    """Starts another replica for each that dies, as Serve does."""

    def __init__(self, house: House, count: int, make: Callable[[str], Replica]) -> None:
        self._house = house
        self._make = make
        self._count = count
        self._started = 0
        self.replicas: list[Replica] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Keeper:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(replica.aclose() for replica in self.replicas))

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if not replica.dead.is_set()]

    async def _keep(self) -> None:
        while True:
            while len(self.alive) < self._count:
                self._started += 1
                self.replicas.append(self._make(f"r{self._started}").start())
            deaths = [asyncio.create_task(replica.dead.wait()) for replica in self.alive]
            try:
                await asyncio.wait(deaths, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for death in deaths:
                    death.cancel()
