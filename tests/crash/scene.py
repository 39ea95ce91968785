"""What every test here has: two ways to a queue, clients, and a check of everything at the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from serve_app.domain.errors import DatabaseUnavailable, Overloaded
from serve_app.domain.ports import Queue
from serve_app.domain.request import Request
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.request_log import LINES
from tests.chaos.history import Tally, record_tally
from tests.chaos.proxy import Proxy
from tests.chaos.replica import House, Keeper, Replica
from tests.fakes.liveness import FakeLiveness
from tests.queue.database import QUICK, Ingress
from tests.queue.requests import TENANT, new

LIMITS = replace(QUICK, lease_s=1.5, first_lease_s=0.8)


@dataclass
class Scene:
    """``near`` makes ingresses with a connection of their own, ``far`` those behind the proxy."""

    conninfo: str
    proxy: Proxy
    near: Ingress
    far: Ingress
    liveness: FakeLiveness
    chance: random.Random
    tally_file: Path | None
    house: House = field(init=False)

    def __post_init__(self) -> None:
        self.house = House([], self.liveness, random=self.chance)

    async def ingresses(self, *makers: Ingress, limits: Any = LIMITS) -> list[PostgresQueue]:
        queues = [await make(limits) for make in makers]
        self.house.queues = queues
        return queues

    async def submit(self, queue: Queue, **changes: Any) -> Request:
        request = await queue.submit(new(**changes))
        self.house.history.accepted.add(request.id)
        return request

    async def final(self, request_id: str, within_s: float = 120.0) -> Request:
        """The request at its end, as a client sees it who asks again and again."""
        async with asyncio.timeout(within_s):
            while True:
                seen = await self.house.insist(lambda queue: queue.wait(TENANT, request_id, 1.0))
                if seen.state.final:
                    self.house.history.seen.append(seen)
                    return seen

    async def log_of(self, request_id: str) -> str:
        """What happened to a request, a line each, to be read where a test fails."""
        lines = LINES.format(id="%(id)s::uuid", after="0")
        sql = f"SELECT at, message FROM ({lines}) l ORDER BY sequence"
        async with await psycopg.AsyncConnection.connect(self.conninfo) as connection:
            rows = await (await connection.execute(sql.encode(), {"id": request_id})).fetchall()
        return "\n".join(f"{at} {message}" for at, message in rows)

    async def check(self) -> Tally:
        """Waits for the end of everything that was stored, then compares all that was seen."""
        await self._until_all_ended()
        history = self.house.history
        for request_id in sorted(history.accepted):
            await self.final(request_id)
        with psycopg.connect(self.conninfo) as connection:
            return record_tally(history.check(connection, self.house.objects), self.tally_file)

    def replicas(self, count: int, **how: Any) -> Keeper:
        return Keeper(self.house, count, lambda name: Replica(self.house, name, **how))

    async def _until_all_ended(self, within_s: float = 120.0) -> None:
        """Those also whose clients were not answered, and what failed attempts left is noted."""
        queue = self.house.queues[-1]
        async with asyncio.timeout(within_s):
            while await _unended(queue):  # noqa: ASYNC110 - any ingress may end them
                await asyncio.sleep(0.05)


async def _unended(queue: Queue) -> int:
    with suppress(DatabaseUnavailable):
        rows = await queue._database.rows(  # type: ignore[attr-defined]
            "SELECT (SELECT count(*) FROM requests WHERE outcome IS NULL) + ("
            "SELECT count(*) FROM attempts "
            "WHERE ended <> 'undo' AND NOT collected)"
        )
        return int(rows[0][0])
    return 1


def _made(value: Any) -> Any:
    return value() if callable(value) else value


class Clients:
    """Submit one after the other until they are stopped; ``refused`` counts what was full.
    ``changes`` that can be called are, for each request."""

    def __init__(self, scene: Scene, count: int, *, pause_s: float = 0.01, **changes: Any) -> None:
        self._scene = scene
        self._pause_s = pause_s
        self._changes = changes
        self._stopping = asyncio.Event()
        self._count = count
        self._tasks: Sequence[asyncio.Task[None]] = ()
        self.refused = 0
        self.unanswered = 0

    async def __aenter__(self) -> Clients:
        self._tasks = [asyncio.create_task(self._submit()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def go_on(self, count: int = 20, patience_s: float = 30.0) -> None:
        """Wait until so many more were accepted."""
        accepted = self._scene.house.history.accepted
        enough = len(accepted) + count
        async with asyncio.timeout(patience_s):
            while len(accepted) < enough:  # noqa: ASYNC110 - any number of tasks add
                await asyncio.sleep(0.02)

    async def _submit(self) -> None:
        house = self._scene.house
        while not self._stopping.is_set():
            try:
                changes = {name: _made(value) for name, value in self._changes.items()}
                await self._scene.submit(house.random.choice(house.queues), **changes)
            except DatabaseUnavailable:
                self.unanswered += 1
            except Overloaded:
                self.refused += 1
            await asyncio.sleep(self._pause_s)
