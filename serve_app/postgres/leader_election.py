"""Leader election among ingress replicas, by rows with a time limit.

A session's advisory lock would do while connections are sound. But a server keeps the session of a
connection that the network has forgotten for as long as nothing tells it otherwise, and then nobody
leads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import LiteralString

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.ports import Clock
from serve_app.postgres.database import Database

LEADS_S = 6.0
"""A leader that is gone is replaced after this time at the latest."""
RENEW_S = 2.0
ALONE_S = 30.0
POLL_S = 0.1

TAKE: LiteralString = """
-- name: lead
INSERT INTO leaders AS l (name, holder, until)
SELECT name, %(holder)s, now() + for_s * interval '1 second'
FROM unnest(%(names)s::text[], %(for_s)s::double precision[]) AS x(name, for_s) ORDER BY 1
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE l.holder = excluded.holder OR l.until < now()
RETURNING name
"""
RELEASE: LiteralString = "DELETE FROM leaders WHERE holder = %(holder)s AND name = %(name)s"


class LeaderElection:
    """Leadership by name. A process that died, or whose database is away, leads for ``LEADS_S`` at
    most.

    ``holder``: the id of this process. Two processes may both lead for a moment where their clocks
    run at different speeds, so what a leader does must bear being done twice.
    """

    def __init__(self, database: Database, clock: Clock, holder: str) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder
        self._renew_at: dict[str, float] = {}  # monotonic; names that this process leads
        self._asked: dict[str, tuple[float, float]] = {}  # name → monotonic time, and for_s
        self._writing = asyncio.Lock()

    async def leads(self, name: str, for_s: float = LEADS_S) -> bool:
        """True if this process leads. Takes the leadership if no other process has it. ``for_s``:
        time after which it may be taken from this process if it does not ask again.
        """
        return bool(await self.led_of((name,), for_s))

    async def led_of(self, names: Collection[str], for_s: float = LEADS_S) -> frozenset[str]:
        """Names that this process leads; otherwise as ``leads``."""
        now = self._clock.monotonic()
        self._asked |= dict.fromkeys(names, (now, for_s))
        if self._due_names(names, now):
            async with self._writing:
                await self._renew(names)
        return frozenset(name for name in names if name in self._renew_at)

    def _due_names(self, names: Collection[str], now: float) -> frozenset[str]:
        return frozenset(name for name in names if now >= self._renew_at.get(name, 0.0))

    async def _renew(self, names: Collection[str]) -> None:
        """Take or renew those of the names that are due, and with them those that will be due soon
        and are asked for all the time: a dozen tasks ask. No name is held for longer than its last
        question allows."""
        began = self._clock.monotonic()
        if not (due := self._due_names(names, began)):
            return  # it was renewed with another name
        for name in due:
            self._renew_at.pop(name, None)
        soon = self._due_names(self._renew_at, began + RENEW_S / 2)
        ages = {name: began - self._asked[name][0] for name in soon}
        renewed = due | {name for name, age_s in ages.items() if age_s < RENEW_S}
        taken = await self._take(
            {name: self._asked[name][1] - ages.get(name, 0.0) for name in renewed}
        )
        for name in renewed.difference(taken):
            self._renew_at.pop(name, None)
        self._renew_at |= dict.fromkeys(taken, began + RENEW_S)

    def on_leader(
        self, name: str, every_s: float, work: Callable[[], Awaitable[object]]
    ) -> Callable[[], Awaitable[bool]]:
        """``work`` for periodic tasks of all processes, done by one of them. If that one is gone,
        another one does it after three rounds. The result is False if this process does not lead.
        """

        async def work_if_leader() -> bool:
            if not await self.leads(name, 3 * every_s):
                return False
            await work()
            return True

        return work_if_leader

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncGenerator[None]:
        """Run the block in one process at a time. It must end within ``ALONE_S``."""
        while not await self._take({name: ALONE_S}):  # noqa: ASYNC110  another process releases it
            await asyncio.sleep(POLL_S)
        try:
            yield
        finally:
            await self.resign(name)

    async def resign(self, name: str) -> None:
        """Let another process lead."""
        async with self._writing:  # a renewal under way would take it again
            self._renew_at.pop(name, None)
            with contextlib.suppress(DatabaseUnavailable):  # then it runs out
                await self._database.rows(RELEASE, {"name": name, "holder": self._holder})

    async def aclose(self) -> None:
        """Let other processes lead at once."""
        for name in [*self._renew_at]:
            await self.resign(name)

    async def _take(self, for_s: Mapping[str, float]) -> Sequence[str]:
        params = {"names": [*for_s], "holder": self._holder, "for_s": [*for_s.values()]}
        return [str(row[0]) for row in await self._database.rows(TAKE, params)]
